/** `vdisk log-level`: how much a running daemon logs. */

import type { Argv } from 'yargs';
import { LOG_LEVELS, type LogLevel } from '../../control/protocol.ts';
import { type Command, OK } from '../command.ts';
import { takeMount, withMount } from './find.ts';

function takeLevelArguments(command: Argv): void {
  takeMount(command)
    .positional('level', {
      type: 'string',
      choices: LOG_LEVELS,
      demandOption: true,
      describe: 'from which severity on',
    })
    .option('json', { type: 'boolean', describe: 'a JSON object on stdout' })
    .example('$0 log-level /mnt/img debug', 'as if it had been mounted with --verbose')
    .epilogue('Exit status: 0 done, 1 failed, 2 usage.');
}

async function logLevel(parsed: Record<string, unknown>): Promise<number> {
  const level = parsed['level'] as LogLevel;
  const { before } = await withMount(parsed['mount'], ({ client }) => client.ask('log-level', { level }));
  const told = parsed['json'] === true ? JSON.stringify({ before, level }, null, 2) : `${before} → ${level}`;
  process.stdout.write(`${told}\n`);
  return OK;
}

export const logLevelCommand: Command = {
  usage: 'log-level <mount> <level>',
  describe: 'set how much a running mount logs',
  take: takeLevelArguments,
  run: logLevel,
};
