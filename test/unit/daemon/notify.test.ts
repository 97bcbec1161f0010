import { setTimeout as wait } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { journalText } from '../../../src/daemon/log.ts';
import { ServiceManager } from '../../../src/daemon/notify.ts';
import { makeStatus, WorkerStatus } from '../../../src/transport/kernel/status.ts';
import { NotifySocket } from '../../support/notify-socket.ts';

const NAME = `@vdisk-mount-unit-${process.pid}`;
let socket: NotifySocket | undefined;
afterEach(() => {
  socket?.close();
  socket = undefined;
});

test('the watchdog is quieted while requests are answered, and no longer', async () => {
  socket = new NotifySocket(NAME);
  const manager = new ServiceManager({ NOTIFY_SOCKET: NAME, WATCHDOG_USEC: '20000' });
  let answering = true;
  manager.ready('serving', () => answering);
  await wait(100);
  const heard = socket.lines().filter((line) => line === 'WATCHDOG=1').length;
  expect(heard).toBeGreaterThan(1);
  answering = false;
  await wait(30);
  const then = socket.lines().length;
  await wait(100);
  expect(socket.lines().length).toBe(then);
  manager.close();
});

test('a name cannot assign anything', () => {
  socket = new NotifySocket(NAME);
  new ServiceManager({ NOTIFY_SOCKET: NAME }).status('a\nMAINPID=1');
  expect(socket.lines()).toEqual(['STATUS=a MAINPID=1']);
});

test('where nobody listens, nothing happens', () => {
  for (const name of [undefined, '', 'relative', '@', NAME, '/no/such/socket', `/${'x'.repeat(500)}`]) {
    new ServiceManager({ NOTIFY_SOCKET: name }).status('alone');
  }
});

test('a worker in the same request as before is told from one in another', () => {
  const status = new WorkerStatus(makeStatus(1), 0);
  expect(status.stage).toBeUndefined();
  status.begin(15, 7, 0, 2);
  const first = status.stage;
  expect(first).toBeDefined();
  expect(status.stage).toBe(first);
  status.end();
  expect(status.stage).toBeUndefined();
  status.begin(15, 7, 0, 2);
  expect(status.stage).not.toBe(first);
});

test('lines for the journal', () => {
  const line = (level: number, more: object) => journalText(JSON.stringify({ level, ...more }));
  expect(line(30, { msg: 'mounted' })).toBe('<6>mounted\n');
  expect(line(20, { msg: 'traced' })).toBe('<7>traced\n');
  expect(line(50, { msg: 'bad\nworse', hint: 'mend it' })).toBe('<3>bad\n<3>worse\n<3>mend it\n');
});
