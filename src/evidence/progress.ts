/** How far hashing, or another pass over all bytes, is, in words. */

import { type ByteCount, GIB, MIB } from '../base/units.ts';

const inGiB = (bytes: ByteCount): string => (bytes / GIB).toFixed(bytes < 10 * GIB ? 2 : 0);

/** "0:07", "12:30", "3:05:00" */
function clock(seconds: number): string {
  const two = (value: number): string => `${value}`.padStart(2, '0');
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return `${hours > 0 ? `${hours}:${two(minutes)}` : minutes}:${two(seconds % 60)}`;
}

/** "hashing: 45 % of 1.20 GiB, 812 MiB/s, 0:23 left", after `elapsedMs`. The rate is that of all the time. */
export function progressText(
  done: ByteCount,
  total: ByteCount,
  elapsedMs: number,
  doing = 'hashing',
): string {
  const percent = total === 0 ? 100 : Math.floor((done / total) * 100);
  const text = `${doing}: ${percent} % of ${inGiB(total)} GiB`;
  if (done === 0 || elapsedMs <= 0) return text;
  const perMs = done / elapsedMs;
  const left = Math.ceil((total - done) / perMs / 1000);
  return `${text}, ${Math.round((perMs * 1000) / MIB)} MiB/s, ${clock(left)} left`;
}

/** A listener for `hashAll` and the like that says texts. */
export function progressTo(
  say: (text: string) => void,
  doing?: string,
): (done: ByteCount, total: ByteCount) => void {
  const begun = performance.now();
  return (done, total) => say(progressText(done, total, performance.now() - begun, doing));
}
