/** `vdisk COMMAND`: what can be done with an image without mounting it. */

import yargs from 'yargs';
import { ImageError } from '../base/errors.ts';
import { CHECK_STATUS, check, NOT_CHECKED } from './check.ts';
import { complain, imageArguments, takeImageArguments } from './image-arguments.ts';
import { info } from './info.ts';
import { VERSION } from './version.ts';

const OK = 0;
const FAILED = 1;
const USAGE = 2;

/** Runs vdisk; returns its exit status: 0 done, 1 failed, 2 usage, but those of qemu-img check for `check`. */
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
        takeImageArguments(command)
          .example('$0 info disk.vhdx', 'format, sizes, identity, log state, warnings')
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
