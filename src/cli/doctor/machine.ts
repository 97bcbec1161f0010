/** What `vdisk doctor` sees of the machine: little enough that tests can stand in for it. */

import { accessSync, closeSync, constants, openSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { userInfo } from 'node:os';
import { findHelper } from '../../transport/kernel/mounter.ts';

export interface Machine {
  readonly euid: number;
  readonly user: string;
  readonly node: string;
  /** The text of a file; undefined where it cannot be read. */
  read(path: string): string | undefined;
  /** Of a file; the code of the error ("ENOENT") where it cannot be looked at. */
  stat(path: string): { readonly uid: number; readonly mode: number } | string;
  /** Opens it for reading and writing, and closes it: undefined, or the code of the error. */
  open(path: string): string | undefined;
  /** The absolute path of a program in the directories of the system. */
  program(name: string): string | undefined;
  /** Loads a package: undefined, or why it cannot be. */
  load(name: string): string | undefined;
}

const codeOf = (problem: unknown): string =>
  problem instanceof Error && 'code' in problem ? String(problem.code) : String(problem);

export const thisMachine = (): Machine => ({
  euid: process.geteuid?.() ?? 0,
  user: nameOfUser(),
  node: process.versions.node,
  read: (path) => {
    try {
      return readFileSync(path, 'utf8');
    } catch {
      return undefined;
    }
  },
  stat: (path) => {
    try {
      return statSync(path);
    } catch (problem) {
      return codeOf(problem);
    }
  },
  open: (path) => {
    try {
      accessSync(path, constants.F_OK);
      closeSync(openSync(path, 'r+'));
      return undefined;
    } catch (problem) {
      return codeOf(problem);
    }
  },
  program: (name) => findHelper(name),
  load: (name) => {
    try {
      createRequire(import.meta.url)(name);
      return undefined;
    } catch (problem) {
      const [line = ''] = (problem instanceof Error ? problem.message : String(problem)).split('\n');
      return line;
    }
  },
});

function nameOfUser(): string {
  try {
    return userInfo().username;
  } catch {
    return `user ${process.geteuid?.()}`;
  }
}
