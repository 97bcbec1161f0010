/** Running a program again in another mount namespace: setns(2) takes a process with one thread, which Node never is. */

import { spawnSync } from 'node:child_process';
import { ImageError } from '../base/errors.ts';
import { findHelper } from '../transport/kernel/mounter.ts';

/**
 * Runs this very command line with `args` in the mount namespace that the file `namespace` is ("/proc/1/ns/mnt");
 * returns its exit status. Throws ImageError('mount') where it cannot be started.
 */
export function runInNamespace(namespace: string, args: readonly string[]): number {
  const nsenter = findHelper('nsenter');
  if (nsenter === undefined) {
    throw new ImageError('mount', '-N: nsenter(1) was not found, which enters the mount namespace', {
      hint: 'Install it ("apt install util-linux").',
    });
  }
  const script = process.argv[1]!;
  const outcome = spawnSync(nsenter, [`--mount=${namespace}`, '--', process.execPath, script, ...args], {
    stdio: 'inherit',
  });
  if (outcome.error !== undefined || outcome.status === null) {
    throw new ImageError('mount', `-N ${namespace}: ${outcome.error?.message ?? outcome.signal}`);
  }
  return outcome.status;
}
