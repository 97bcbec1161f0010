/** `vdisk COMMAND`: what can be done with an image without mounting it. */

import yargs from 'yargs';
import { ImageError } from '../base/errors.ts';
import { ALGORITHMS } from '../evidence/algorithms.ts';
import { CHECK_STATUS, check, NOT_CHECKED } from './check.ts';
import { hash } from './hash.ts';
import { complain, imageArguments, takeImageArguments, takeParentArguments } from './image-arguments.ts';
import { info } from './info.ts';
import { VERIFY_STATUS, verify } from './verify.ts';
import { VERSION } from './version.ts';

const OK = 0;
const FAILED = 1;
const USAGE = 2;

/** Runs vdisk; returns its exit status: 0 done, 1 failed, 2 usage, but what `check` and `verify` say of theirs. */
export async function main(args: readonly string[]): Promise<number> {
  let status = OK;
  const parser = yargs([...args])
    .scriptName('vdisk')
    .usage('Usage: $0 COMMAND [options]')
    .parserConfiguration({ 'parse-positional-numbers': false, 'camel-case-expansion': false })
    .command(
      'info <images..>',
      'say what an image is',
      (command) => {
        takeParentArguments(takeImageArguments(command))
          .example('$0 info disk.vhdx', 'format, sizes, identity, parents, log state, warnings')
          .example('$0 info --json *.vdi', 'the same for programs');
      },
      (parsed) => {
        status = info(imageArguments(parsed));
      },
    )
    .command(
      'check <images..>',
      'look images through for damage, changing nothing',
      (command) => {
        takeImageArguments(command)
          .example('$0 check disk.vhdx', 'one line, and one for each finding')
          .example('$0 check --json *.vdi', 'counts and findings for programs')
          .example('$0 check -U disk.qed', 'while a virtual machine runs: what it finds may be passing')
          .epilogue(CHECK_STATUS);
      },
      (parsed) => {
        status = check(imageArguments(parsed));
      },
    )
    .command(
      'hash <images..>',
      'digests of the files of an image, parents included, and of its content',
      (command) => {
        takeParentArguments(takeImageArguments(command));
        for (const name of ALGORITHMS)
          command.option(name, { type: 'boolean', describe: name.toUpperCase() });
        command
          .example('$0 hash disk.vhdx', 'SHA-256 of the file and of the disk in it')
          .example('$0 hash --md5 --sha1 disk.vhd', 'others instead');
      },
      async (parsed) => {
        const named = ALGORITHMS.filter((name) => parsed[name] === true);
        const algorithms = named.length === 0 ? (['sha256'] as const) : named;
        status = await hash({ ...imageArguments(parsed), algorithms });
      },
    )
    .command(
      'verify <record>',
      'look whether all is still as the record of an evidence mount says',
      (command) => {
        command
          .positional('record', { type: 'string', describe: 'file that --record wrote' })
          .option('json', { type: 'boolean', describe: 'a JSON object on stdout' })
          .example('$0 verify case-7.json', 'hashes files and disks again')
          .epilogue(VERIFY_STATUS);
      },
      async (parsed) => {
        status = await verify(String(parsed['record']), parsed['json'] === true);
      },
    )
    .demandCommand(1, 'a command is needed')
    .strict()
    .version('version', 'show the version', VERSION)
    .alias('version', 'V')
    .alias('help', 'h')
    .wrap(Math.min(100, process.stdout.columns ?? 100))
    .epilogue('Exit status: 0 done, 1 failed, 2 usage.')
    .exitProcess(false)
    .fail((message, problem) => {
      throw problem ?? new ImageError('usage', message, { hint: 'See vdisk --help.' });
    });
  try {
    await parser.parseAsync();
    return status;
  } catch (problem) {
    const { kind } = complain(problem);
    // 2 would say that errors were found.
    if (args.find((word) => !word.startsWith('-')) === 'check') return NOT_CHECKED;
    return kind === 'usage' ? USAGE : FAILED;
  }
}
