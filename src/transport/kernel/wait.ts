/**
 * What a thread of this process waits for, by what the kernel tells of it in /proc/self/task (proc(5)). Looking costs the
 * thread nothing and does not wait for it, whatever it is in.
 */

import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { shownPath } from '../../base/text.ts';

/** How the calls that an image file is worked on with are numbered (asm/unistd.h of Linux). */
const FILE_CALLS: Readonly<Record<string, ReadonlyMap<number, string>>> = {
  x64: new Map([
    [5, 'fstat'],
    [8, 'lseek'],
    [17, 'pread'],
    [18, 'pwrite'],
    [74, 'fsync'],
    [75, 'fdatasync'],
    [77, 'ftruncate'],
    [285, 'fallocate'],
    [295, 'preadv'],
    [296, 'pwritev'],
  ]),
  arm64: new Map([
    [46, 'ftruncate'],
    [47, 'fallocate'],
    [62, 'lseek'],
    [67, 'pread'],
    [68, 'pwrite'],
    [69, 'preadv'],
    [70, 'pwritev'],
    [80, 'fstat'],
    [82, 'fsync'],
    [83, 'fdatasync'],
  ]),
};
const FUTEX: Readonly<Record<string, number>> = { x64: 202, arm64: 98 };

/** The calling thread's number, as in /proc/self/task; undefined without /proc. */
export function threadNumber(): number | undefined {
  try {
    return Number(basename(readlinkSync('/proc/thread-self')));
  } catch {
    return undefined;
  }
}

function textOf(thread: number, name: 'syscall' | 'wchan'): string {
  try {
    return readFileSync(`/proc/self/task/${thread}/${name}`, 'utf8').trim();
  } catch {
    // Not permitted, or not in this kernel.
    return '';
  }
}

/** The call on a file that a thread is in: "fdatasync of /images/disk.vhdx"; undefined where it is in another, or in none. */
function fileCall(thread: number): string | undefined {
  // "17 0x5 0x7f…": number and arguments, the first of which is the descriptor.
  const [number, descriptor] = textOf(thread, 'syscall').split(' ');
  const name = FILE_CALLS[process.arch]?.get(Number(number));
  if (name === undefined || descriptor === undefined) return undefined;
  try {
    return `${name} of ${shownPath(readlinkSync(`/proc/self/fd/${Number(descriptor)}`))}`;
  } catch {
    return name;
  }
}

/** "waits in fdatasync of /images/disk.vhdx (kernel: request_wait_answer)"; says so where nothing is known. */
export function waitOf(thread: number | undefined): string {
  if (thread === undefined) return 'what it waits for is not known';
  const place = textOf(thread, 'wchan');
  const inside = place === '' || place === '0' ? '' : ` (kernel: ${place})`;
  const call = fileCall(thread);
  if (call !== undefined) return `waits in ${call}${inside}`;
  const number = textOf(thread, 'syscall').split(' ')[0]!;
  if (number === 'running') return 'is at work, and waits for nothing';
  if (number === '') return 'what it waits for is not known';
  if (Number(number) !== FUTEX[process.arch]) return `waits in system call ${number}${inside}`;
  const others = otherCalls(thread);
  return `waits for another thread${others.length === 0 ? '' : `, which may be the one in ${others.join(', or in ')}`}`;
}

/** What the other threads of this process are in, of calls on files. */
function otherCalls(thread: number): string[] {
  const calls = readdirSync('/proc/self/task')
    .filter((other) => other !== `${thread}`)
    .map((other) => fileCall(Number(other)));
  return [...new Set(calls.filter((call) => call !== undefined))];
}
