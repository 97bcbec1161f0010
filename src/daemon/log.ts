/** The daemon's log: pino; readable lines on a terminal, JSON elsewhere. */

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

export interface LogTarget {
  /** 'stderr', 'syslog', or the absolute path of a file that is appended to. */
  readonly to: string;
  readonly level: 'debug' | 'info' | 'warn';
}

/** Sets how much is logged, in all logs made from this one; gives what it was. */
export function setLogLevel(log: Log, level: string): string {
  const before = log.level;
  log.level = level;
  return before;
}

/** Throws ImageError('io') where a log file cannot be opened. */
export function openLog(target: LogTarget): Log {
  const options: pino.LoggerOptions = { level: target.level, base: { pid: process.pid } };
  if (target.to === 'syslog') return pino(options, systemLog());
  if (target.to === 'stderr' && process.stderr.isTTY) {
    return pino(options, { write: (line: string) => process.stderr.write(readable(line)) });
  }
  const dest = target.to === 'stderr' ? 2 : target.to;
  try {
    return pino(options, pino.destination({ dest, sync: true, append: true, mkdir: false }));
  } catch (problem) {
    throw ImageError.from(problem, 'io', 'the log file cannot be opened');
  }
}
