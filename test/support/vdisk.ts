/** Running a command of `vdisk` in this process, unbuilt: what it says and how it ends. */

import { vi } from 'vitest';
import { main } from '../../src/cli/vdisk.ts';

export interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export async function vdisk(...args: string[]): Promise<Ran> {
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    vi.spyOn(process[name], 'write').mockImplementation((text) => {
      said[name] += text.toString();
      return true;
    });
  }
  vi.spyOn(console, 'log').mockImplementation((text) => {
    said.stdout += `${text}\n`;
  });
  const status = await main(args);
  vi.restoreAllMocks();
  return { status, ...said };
}
