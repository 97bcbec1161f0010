/** The proof: a small image is mounted, read and unmounted again, as a user would do it. */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ImageError } from '../../base/errors.ts';
import { startDaemon } from '../../daemon/launch.ts';
import { unmountPath } from '../../transport/kernel/mounter.ts';
import { configure, readCommandLine } from '../mount-command.ts';
import { type Finding, ok, problem } from './finding.ts';

const SUBJECT = 'a mount';
const BYTES = 64 * 1024;

/** Mounts in a directory of its own below that for temporary files; nothing of it is left. */
export async function tryMount(): Promise<Finding> {
  const folder = mkdtempSync(join(tmpdir(), 'vdisk-doctor-'));
  const [image, mountpoint, log] = ['probe.raw', 'mnt', 'log'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  const content = Buffer.alloc(BYTES, 'vdisk doctor ');
  let mounted = false;
  try {
    writeFileSync(image, content);
    mkdirSync(mountpoint);
    const line = readCommandLine(['-o', 'ro', '--verbose', `--log-file=${log}`, image, mountpoint]);
    if (typeof line === 'string') throw new ImageError('bug', 'the words of the trial mount are wrong');
    const begun = performance.now();
    await startDaemon().mount(configure(line), () => {});
    mounted = true;
    const took = performance.now() - begun;
    if (!readFileSync(join(mountpoint, 'probe.raw')).equals(content))
      return problem(SUBJECT, 'shows other bytes than the image has', 'Please report this.');
    const protocol = /FUSE protocol (7\.\d+)/.exec(readFileSync(log, 'utf8'))?.[1];
    const spoken = protocol === undefined ? '' : `, protocol ${protocol}`;
    return ok(SUBJECT, `was made, read and ended again: ready in ${(took / 1000).toFixed(2)} s${spoken}`);
  } catch (failure) {
    const { message, hint } = ImageError.from(failure, 'bug');
    return problem(SUBJECT, `was tried, and failed: ${message}`, hint ?? 'See above.');
  } finally {
    if (mounted && unmountPath(mountpoint, 'clean') !== 0) unmountPath(mountpoint, 'force');
    clear(folder);
  }
}

function clear(folder: string): void {
  try {
    rmSync(folder, { recursive: true, force: true });
  } catch {
    // Something still holds it: it is where temporary files are.
  }
}
