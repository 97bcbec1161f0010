/** Which process is meant: a number is given to another one sooner or later, number and start together are not. */

import { readFileSync } from 'node:fs';

/**
 * When the process `pid` began: clock ticks since boot, field 22 of /proc/PID/stat (proc(5)). Undefined where there is no
 * such process, or only what is left of one.
 */
export function startOf(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const [state, ...fields] = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return state === 'Z' || state === 'X' ? undefined : fields[18];
  } catch {
    return undefined;
  }
}

/** A process in a file's name: only it ever makes a file of that name, so that who finds it gone may remove the file. */
export const processMark = (pid: number, started: string): string => `${pid}-${started}`;

/** This process; where /proc says nothing of it, as one that has never been. */
export const ownMark = (): string => processMark(process.pid, startOf(process.pid) ?? '0');

/** Whether the process of a mark is there. */
export function isThere(mark: string): boolean {
  const [pid, started] = mark.split('-');
  return startOf(Number(pid)) === started;
}
