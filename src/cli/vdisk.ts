/** `vdisk COMMAND`: what can be done with an image without mounting it. */

import yargs, { type Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { ALGORITHMS } from '../evidence/algorithms.ts';
import { CHECK_STATUS, check, NOT_CHECKED } from './check.ts';
import { compare, compareArguments, NOT_COMPARED, takeCompareArguments } from './compare.ts';
import { completion, SHELLS, type Shell } from './completion.ts';
import { create, createArguments, takeCreateArguments } from './create.ts';
import { hash } from './hash.ts';
import { complain, imageArguments, takeImageArguments, takeParentArguments } from './image-arguments.ts';
import { info } from './info.ts';
import { map, mapArguments, takeMapArguments } from './map.ts';
import { VERIFY_STATUS, verify } from './verify.ts';
import { VERSION } from './version.ts';

const OK = 0;
const FAILED = 1;
const USAGE = 2;

/**
 * Tells `parser` all commands. Completion and the man pages are made from it too (reference.ts). Returns a function that
 * says with what status the command that has run ended.
 */
export function declareCommands(parser: Argv): () => number {
  let status = OK;
  parser
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
      'map <image>',
      'say where the bytes of a disk are: in which image of the chain, and where in its file',
      takeMapArguments,
      async (parsed) => {
        status = await map(mapArguments(parsed));
      },
    )
    .command(
      'compare <first> <second>',
      'say whether two images show the same disk',
      takeCompareArguments,
      (parsed) => {
        status = compare(compareArguments(parsed));
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
    .command(
      'completion <shell>',
      'print what a shell needs to complete vdisk and vdisk-mount',
      (command) => {
        command
          .positional('shell', { type: 'string', choices: SHELLS, describe: 'for which shell' })
          .example('source <($0 completion bash)', 'in ~/.bashrc')
          .example('source <($0 completion zsh)', 'in ~/.zshrc, after compinit')
          .example('$0 completion fish | source', 'in ~/.config/fish/config.fish');
      },
      (parsed) => {
        process.stdout.write(completion(parsed['shell'] as Shell, declareCommands));
        status = OK;
      },
    )
    .command(
      'create [file] [size]',
      'make an image file',
      (command) => void takeCreateArguments(command),
      (parsed) => create(createArguments(parsed)),
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
      // yargs tells values that it does not know in several lines.
      const line = message?.replaceAll(/:?\n+ */g, ': ');
      throw problem ?? new ImageError('usage', line, { hint: 'See vdisk --help.' });
    });
  return () => status;
}

/** Runs vdisk; returns its exit status: 0 done, 1 failed, 2 usage, but what `check` and `verify` say of theirs. */
export async function main(args: readonly string[]): Promise<number> {
  const parser = yargs([...args]);
  const status = declareCommands(parser);
  try {
    await parser.parseAsync();
    return status();
  } catch (problem) {
    const { kind } = complain(problem);
    // 2 would say that errors were found.
    if (args.find((word) => !word.startsWith('-')) === 'check') return NOT_CHECKED;
    // 1 would say that they differ.
    if (args.find((word) => !word.startsWith('-')) === 'compare') return NOT_COMPARED;
    return kind === 'usage' ? USAGE : FAILED;
  }
}
