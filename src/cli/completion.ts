/** `vdisk completion`: what a shell needs to complete the command lines of vdisk and vdisk-mount. */

import type { Argv } from 'yargs';
import { bashCompletion } from './completion/bash.ts';
import { fishCompletion } from './completion/fish.ts';
import { zshCompletion } from './completion/zsh.ts';
import { type Program, referenceOfMount, referenceOfVdisk } from './reference.ts';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

const MAKERS: Readonly<Record<Shell, (programs: readonly Program[]) => string>> = {
  bash: bashCompletion,
  zsh: zshCompletion,
  fish: fishCompletion,
};

/** A script for `shell` to source; `declare` tells a parser the commands of vdisk. */
export function completion(shell: Shell, declare: (parser: Argv) => unknown): string {
  return MAKERS[shell]([referenceOfVdisk(declare), referenceOfMount()]);
}
