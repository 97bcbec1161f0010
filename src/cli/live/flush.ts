/** `vdisk flush`: makes stable what was written to a mount. */

import type { Argv } from 'yargs';
import { type Command, OK } from '../command.ts';
import { takeMount, withMount } from './find.ts';

/** Gigabytes of dirty pages on a slow medium. */
const FLUSH_LIMIT_MS = 3_600_000;

function takeFlushArguments(command: Argv): void {
  takeMount(command)
    .option('json', { type: 'boolean', describe: 'a JSON object on stdout' })
    .example('$0 flush /mnt/img', 'all that was written so far survives a power cut')
    .epilogue(
      "The kernel's page cache and the images' metadata alike. Exit status: 0 done, 1 failed, 2 usage.",
    );
}

async function flush(parsed: Record<string, unknown>): Promise<number> {
  await withMount(parsed['mount'], async ({ client, state: { mountpoint } }) => {
    await client.ask('flush', {}, FLUSH_LIMIT_MS);
    if (parsed['json'] === true)
      process.stdout.write(`${JSON.stringify({ flushed: mountpoint }, null, 2)}\n`);
  });
  return OK;
}

export const flushCommand: Command = {
  usage: 'flush <mount>',
  describe: 'put on stable storage what was written to a running mount',
  take: takeFlushArguments,
  run: flush,
};
