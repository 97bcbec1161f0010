/** A command of `vdisk`: what it takes, and what it does. */

import type { Argv } from 'yargs';

export const OK = 0;
export const FAILED = 1;
export const USAGE = 2;

/** What "-" stands for. */
export const STDOUT = '/dev/stdout';

export interface Command {
  /** As yargs takes it: "info <images..>". The first word is the name. */
  readonly usage: string;
  readonly describe: string;
  /** Adds the arguments. Help, completion and the man pages are made from what it says (reference.ts). */
  take(command: Argv): void;
  /** Returns the exit status, or throws ImageError: then it is 2 for 'usage', else 1, unless `failed` says another. */
  run(parsed: Record<string, unknown>): number | Promise<number>;
  /** Whether it changes images. */
  readonly writes?: true;
  /** Puts its words as yargs takes them, where that takes some of them for what they are not. */
  arrange?(words: readonly string[]): readonly string[];
  /** The status where it threw, of commands for which 1 and 2 say something else. */
  readonly failed?: number;
}
