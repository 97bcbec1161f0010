/** The man pages, as `npm run docs` writes them into docs/man. */

import type { Argv } from 'yargs';
import { commandsDeclared } from '../vdisk.ts';
import { VERSION } from '../version.ts';
import { formatsPage } from './formats-page.ts';
import { mountPage } from './mount-page.ts';
import { vdiskPage } from './vdisk-page.ts';

/** When the texts that are written by hand were last changed. */
const DATE = '2026-11-21';

export interface ManPage {
  /** "vdisk.1" */
  readonly file: string;
  readonly text: string;
}

/** All pages. `declare` tells a parser the commands; by default all of vdisk. */
export async function manPages(declare?: (parser: Argv) => unknown): Promise<ManPage[]> {
  const about = { date: DATE, version: VERSION };
  return [
    { file: 'vdisk.1', text: vdiskPage(about, declare ?? (await commandsDeclared())) },
    { file: 'vdisk-mount.8', text: mountPage(about) },
    { file: 'vdisk-image-formats.5', text: formatsPage(about) },
  ];
}
