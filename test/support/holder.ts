/** Processes that hold something while a test looks at it from outside. */

import { type ChildProcess, spawn } from 'node:child_process';
import { SEARCH_PATH, until } from './machine.ts';

/** A child that holds something until it is told to let go; it also lets go when this process ends. */
export interface Holder {
  readonly pid: number;
  /** Writes a line to it, and returns the next line that it says. */
  ask(line: string): Promise<string>;
  /** Ends it by closing its input. */
  release(): Promise<void>;
}

/**
 * Starts a child that says a line when it holds what it shall hold, and then answers each line on its standard
 * input with one, until that ends. `begin` is written to it first. It is in `children` as long as it runs.
 */
export async function hold(
  program: string,
  args: readonly string[],
  begin: string,
  children: Set<ChildProcess>,
): Promise<Holder> {
  const child = spawn(program, args, {
    env: { ...process.env, PATH: SEARCH_PATH },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  children.add(child);
  // 'close', not 'exit': until then what it said may still be on its way.
  let closed = false;
  const ended = new Promise<void>((resolve) => {
    child.on('close', () => {
      children.delete(child);
      closed = true;
      resolve();
    });
  });
  let said = '';
  let complaint = '';
  child.on('error', (error) => {
    complaint += error.message;
  });
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint += text;
  });
  child.stdin.on('error', () => {});
  const nextLine = (): Promise<string> =>
    until(`${program} says a line`, () => {
      const end = said.indexOf('\n');
      if (end < 0) {
        if (closed) throw new Error(`${program} ended: ${complaint}`);
        return undefined;
      }
      const line = said.slice(0, end);
      said = said.slice(end + 1);
      return line;
    });
  child.stdin.write(begin);
  await nextLine();
  return {
    pid: child.pid!,
    ask: (line) => {
      child.stdin.write(`${line}\n`);
      return nextLine();
    },
    release: () => {
      child.stdin.end();
      return ended;
    },
  };
}

/** For Node with -e: keeps a file open for reading. Told an offset, it says the 16 bytes of text there, or the name of the error. */
export const HOLD_OPEN = `
const { openSync, readSync } = require('node:fs');
const fd = openSync(process.argv[1]);
console.log('open');
require('node:readline').createInterface({ input: process.stdin }).on('line', (at) => {
  const bytes = Buffer.alloc(16);
  try {
    console.log(bytes.toString('latin1', 0, readSync(fd, bytes, 0, 16, Number(at))).trimEnd());
  } catch (problem) {
    console.log(problem.code);
  }
});
`;
