/** The daemon's log: pino; readable lines on a terminal and in the journal, JSON elsewhere. */

import { fstatSync, writeSync } from 'node:fs';
import pino from 'pino';
import { ImageError } from '../base/errors.ts';
import { datagramSocket, sendDatagram } from '../source/syscalls.ts';

export type Log = pino.Logger;

const LABELS: Readonly<Record<number, string>> = { 40: 'warning: ', 50: 'error: ', 60: 'fatal: ' };

/** "vdisk-mount: warning: …": what a person at a terminal reads. */
function readable(line: string): string {
  const entry = JSON.parse(line) as { level: number; msg: string; hint?: string };
  const hint = entry.hint === undefined ? '' : `\n  ${entry.hint}`;
  return `vdisk-mount: ${LABELS[entry.level] ?? ''}${entry.msg}${hint}\n`;
}

/** Syslog severities (RFC 5424, 6.2.1) of pino's levels; facility 3 is "daemon". */
const SEVERITIES: Readonly<Record<number, number>> = { 40: 4, 50: 3, 60: 2 };
const FACILITY = 3;
const SYSLOG_SOCKET = '/dev/log';

/** A stream into the system log (journald or syslogd). Where there is none, lines go nowhere. */
function systemLog(): pino.DestinationStream {
  const socket = datagramSocket();
  return {
    write(line: string) {
      if (socket < 0) return;
      const { level, msg } = JSON.parse(line) as { level: number; msg: string };
      const priority = FACILITY * 8 + (SEVERITIES[level] ?? 6);
      sendDatagram(socket, SYSLOG_SOCKET, Buffer.from(`<${priority}>vdisk-mount[${process.pid}]: ${msg}`));
    },
  };
}

/** Whether stderr is a stream to the journal: JOURNAL_STREAM has its device and inode (systemd.exec(5)). */
export function isJournal(): boolean {
  const stream = process.env['JOURNAL_STREAM'];
  if (stream === undefined) return false;
  try {
    const { dev, ino } = fstatSync(2, { bigint: true });
    return stream === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

/** A line as the journal takes it: each with its priority in front (sd-daemon(3)); time and process it adds itself. */
export function journalText(line: string): string {
  const { level, msg, hint } = JSON.parse(line) as { level: number; msg: string; hint?: string };
  const priority = level < 30 ? 7 : (SEVERITIES[level] ?? 6);
  const text = hint === undefined ? msg : `${msg}\n${hint}`;
  return text.replace(/^/gm, `<${priority}>`).concat('\n');
}

/** Bytes of lines that wait for room on the disk of the log; what comes on top of them is dropped. */
const MAX_UNWRITTEN = 1024 * 1024;

export interface LogTarget {
  /** 'stderr', 'syslog', or the absolute path of a file that is appended to. */
  readonly to: string;
  readonly level: 'debug' | 'info' | 'warn';
  /** Absolute: a field of every line. */
  readonly mountpoint: string;
  /** Absolute paths of the images: a line that begins with one has it as its field `image`. */
  readonly images: readonly string[];
}

/** Sets how much is logged, in all logs made from this one; gives what it was. */
export function setLogLevel(log: Log, level: string): string {
  const before = log.level;
  log.level = level;
  return before;
}

/**
 * What a line is about, for programs: texts begin with the path of what they tell of, and a colon. `image` is one of the
 * images of the mount, `path` another file, a parent for instance.
 */
export function fieldsOf(text: string, images: readonly string[]): Readonly<Record<string, string>> {
  const image = images.find((path) => text.startsWith(`${path}: `));
  if (image !== undefined) return { image };
  const path = /^(\/[^\n]*?): /.exec(text)?.[1];
  return path === undefined ? {} : { path };
}

/** Throws ImageError('io') where a log file cannot be opened. */
export function openLog(target: LogTarget): Log {
  const { mountpoint, images } = target;
  const options: pino.LoggerOptions = {
    level: target.level,
    base: { pid: process.pid, mountpoint },
    hooks: {
      logMethod(args, method) {
        const [first, second] = args as unknown[];
        if (typeof first === 'string') method.apply(this, [fieldsOf(first, images), first]);
        else
          method.apply(this, [{ ...fieldsOf(String(second), images), ...(first as object) }, String(second)]);
      },
    },
  };
  if (target.to === 'syslog') return pino(options, systemLog());
  if (target.to === 'stderr' && process.stderr.isTTY) {
    return pino(options, { write: (line: string) => process.stderr.write(readable(line)) });
  }
  if (target.to === 'stderr' && isJournal()) {
    return pino(options, { write: (line: string) => writeSync(2, journalText(line)) });
  }
  const dest = target.to === 'stderr' ? 2 : target.to;
  try {
    const stream = pino.destination({
      dest,
      sync: true,
      append: true,
      mkdir: false,
      maxLength: MAX_UNWRITTEN,
    });
    // A full disk, a reader that is gone: the mount goes on. What could not be written is tried again with the next line.
    stream.on('error', () => {});
    return pino(options, stream);
  } catch (problem) {
    throw ImageError.from(problem, 'io', 'the log file cannot be opened');
  }
}
