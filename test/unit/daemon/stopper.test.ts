/** What signals do to a mount that pretends. */

import { afterEach, describe, expect, it, vi } from 'vitest';
import { EINVAL, ENOSYS } from '../../../src/base/errno.ts';
import type { MountConfig } from '../../../src/daemon/config.ts';
import type { Log } from '../../../src/daemon/log.ts';
import { Stopper } from '../../../src/daemon/stopper.ts';
import type { Mount, MountEnd } from '../../../src/transport/transport.ts';

describe('signals', () => {
  const said: string[] = [];
  const say = (text: string): void => {
    said.push(text);
  };
  const log = { info: say, warn: say, error: say } as unknown as Log;
  const kill = vi.spyOn(process, 'kill').mockReturnValue(true);
  let stopper: Stopper;

  afterEach(() => {
    stopper.close();
    said.splice(0);
    kill.mockClear();
    vi.useRealTimers();
  });

  function watched(status: number, stoppable = false) {
    let end: (how: MountEnd) => void = () => {};
    const asked: string[] = [];
    const mount: Mount = {
      abandon: () => {},
      isAnswering: () => true,
      ended: new Promise((resolve) => {
        end = resolve;
      }),
      stop: () => {
        asked.push('stop');
        return stoppable;
      },
      unmount: (how) => {
        asked.push(how);
        return status;
      },
    };
    stopper = new Stopper({ mountpoint: '/nowhere/at/all', pidFile: undefined } as MountConfig, log);
    stopper.watch(mount);
    const answer = (next: number): void => {
      status = next;
    };
    return { asked, answer, end: () => end({ how: 'unmounted' }) };
  }

  it('the first asks for a clean end, the second cuts', () => {
    const { asked } = watched(0);
    process.emit('SIGTERM');
    process.emit('SIGTERM');
    expect(asked).toEqual(['clean', 'force']);
    expect(kill).not.toHaveBeenCalled();
  });

  it('the second does not end a process whose mount is gone a moment later', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const mount = watched(0);
    process.emit('SIGINT');
    mount.answer(-EINVAL);
    process.emit('SIGTERM');
    mount.end();
    await new Promise((resolve) => setImmediate(resolve));
    vi.advanceTimersByTime(60_000);
    expect(mount.asked).toEqual(['clean', 'force']);
    expect(kill).not.toHaveBeenCalled();
  });

  it('the first does not ask again for what is unmounted already; the second gives who uses it elsewhere 5 s', () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { asked } = watched(-EINVAL, true);
    process.emit('SIGTERM');
    vi.advanceTimersByTime(60_000);
    expect(asked).toEqual(['clean']);
    process.emit('SIGTERM');
    expect(said.at(-1)).toContain('is unmounted; who uses it elsewhere has 5 s');
    vi.advanceTimersByTime(4900);
    expect(asked).toEqual(['clean', 'force']);
    vi.advanceTimersByTime(200);
    expect(asked).toEqual(['clean', 'force', 'stop']);
    expect(kill).not.toHaveBeenCalled();
    // What it is in never ends.
    expect(() => vi.advanceTimersByTime(5000)).toThrow('SIGKILL');
    expect(kill).toHaveBeenCalledWith(process.pid, 'SIGKILL');
  });

  it('what somebody else has to unmount is no longer served; the process is ended where that cannot be', () => {
    const { asked } = watched(-ENOSYS, true);
    process.emit('SIGTERM');
    expect(asked).toEqual(['clean', 'stop']);
    expect(kill).not.toHaveBeenCalled();
    stopper.close();
    watched(-ENOSYS, false);
    expect(() => process.emit('SIGTERM')).toThrow('SIGKILL');
  });

  it('after the mount has ended, while the images are written out, nothing is cut and nobody is killed', async () => {
    const { asked, end } = watched(-EINVAL);
    end();
    await new Promise((resolve) => setImmediate(resolve));
    for (let signal = 0; signal < 3; signal += 1) process.emit('SIGTERM');
    expect(asked).toEqual([]);
    expect(kill).not.toHaveBeenCalled();
    expect(said.at(-1)).toContain('written out');
  });

  it('a cut connection that has ended leaves the images as much time as they need', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { end } = watched(0);
    process.emit('SIGTERM');
    process.emit('SIGTERM');
    end();
    await new Promise((resolve) => setImmediate(resolve));
    vi.advanceTimersByTime(60_000);
    expect(kill).not.toHaveBeenCalled();
  });

  it('a cut connection that does not end is ended with the process', () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    watched(0);
    process.emit('SIGTERM');
    process.emit('SIGTERM');
    expect(() => vi.advanceTimersByTime(60_000)).toThrow('SIGKILL');
    expect(kill).toHaveBeenCalledWith(process.pid, 'SIGKILL');
  });

  it('one that comes before the mount is there cancels what is being done for it', () => {
    stopper = new Stopper({ mountpoint: '/nowhere/at/all', pidFile: undefined } as MountConfig, log);
    expect(stopper.cancelled.aborted).toBe(false);
    process.emit('SIGINT', 'SIGINT');
    expect(stopper.cancelled.aborted).toBe(true);
    expect(stopper.interruptedBy).toBe('SIGINT');
  });

  it('what is done last of all is cut by the second', async () => {
    const { end } = watched(0);
    end();
    await new Promise((resolve) => setImmediate(resolve));
    stopper.beginLastWork('the last work is done');
    process.emit('SIGTERM');
    expect(said.at(-1)).toContain('the last work is done; a second signal cuts that');
    expect(stopper.cancelled.aborted).toBe(false);
    process.emit('SIGTERM');
    expect(stopper.cancelled.aborted).toBe(true);
    expect(stopper.interruptedBy).toBeUndefined();
    expect(kill).not.toHaveBeenCalled();
  });
});
