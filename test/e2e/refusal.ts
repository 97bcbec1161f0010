/** What a refusal to mount must be. */

import { expect } from 'vitest';
import { isMounted } from '../support/leftovers.ts';
import { type Ran, until } from '../support/machine.ts';
import type { Stage } from '../support/mount.ts';

/** mount(8): incorrect invocation or permissions. */
export const USAGE = 1;
/** mount(8): system error. */
export const SYSTEM = 2;
/** mount(8): mount failure. */
export const MOUNT_FAILURE = 32;

/**
 * A status, nothing on standard output, one line that names the thing, below it where a parent was looked for, at most
 * one line with what to do.
 */
export function checkRefusal(ran: Ran, status: number, named: string, mountpoint?: string): string {
  const { stdout, stderr } = ran;
  expect({ status: ran.status, stdout }, stderr).toEqual({ status, stdout: '' });
  expect(stderr).toMatch(/^vdisk-mount: [^\n]+\n( {2}looked at [^\n]+\n)*( {2}\S[^\n]*\n)?$/);
  expect(stderr).toContain(named);
  if (mountpoint !== undefined) expect(isMounted(mountpoint)).toBe(false);
  return stderr;
}

/** Runs vdisk-mount, which must refuse, and leave no process behind. Returns what it said. */
export async function expectRefusal(
  stage: Stage,
  status: number,
  args: readonly string[],
  named: string,
): Promise<string> {
  const before = stage.processes();
  const said = checkRefusal(await stage.command(args), status, named);
  await until('no daemon is left', () => stage.processes().every((pid) => before.includes(pid)));
  return said;
}
