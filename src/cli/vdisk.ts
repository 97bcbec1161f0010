/** `vdisk COMMAND`: what can be done with an image without mounting it, and with a mount that serves. */

import yargs, { type Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { checkCommand } from './check.ts';
import { type Command, FAILED, OK, USAGE } from './command.ts';
import { commitCommand } from './commit.ts';
import { compactCommand } from './compact.ts';
import { compareCommand } from './compare.ts';
import { completion, SHELLS, type Shell } from './completion.ts';
import { configCommand } from './config.ts';
import { convertCommand, STDOUT } from './convert.ts';
import { createCommand } from './create.ts';
import { doctorCommand } from './doctor.ts';
import { hashCommand } from './hash.ts';
import { complain } from './image-arguments.ts';
import { infoCommand } from './info.ts';
import { flushCommand } from './live/flush.ts';
import { listCommand } from './live/list.ts';
import { logLevelCommand } from './live/log-level.ts';
import { addCommand, removeCommand } from './live/members.ts';
import { statsCommand } from './live/stats.ts';
import { unmountCommand } from './live/unmount.ts';
import { mapCommand } from './map.ts';
import { rebaseCommand } from './rebase.ts';
import { referenceOfVdisk } from './reference.ts';
import { resizeCommand } from './resize.ts';
import { verifyCommand } from './verify.ts';
import { VERSION } from './version.ts';
import { wrongUsage } from './wrong-usage.ts';

const completionCommand: Command = {
  usage: 'completion <shell>',
  describe: 'print what a shell needs to complete vdisk and vdisk-mount',
  take: (command) => {
    command
      .positional('shell', { type: 'string', choices: SHELLS, describe: 'for which shell' })
      .example('source <($0 completion bash)', 'in ~/.bashrc')
      .example('source <($0 completion zsh)', 'in ~/.zshrc, after compinit')
      .example('$0 completion fish | source', 'in ~/.config/fish/config.fish')
      .epilogue('Exit status: 0 done, 1 failed, 2 usage.');
  },
  run: (parsed) => {
    process.stdout.write(completion(parsed['shell'] as Shell, (parser) => void declareCommands(parser)));
    return OK;
  },
};

/** In the order in which help and the man page show them. */
const COMMANDS: readonly Command[] = [
  infoCommand,
  checkCommand,
  mapCommand,
  compareCommand,
  hashCommand,
  verifyCommand,
  createCommand,
  convertCommand,
  resizeCommand,
  compactCommand,
  rebaseCommand,
  commitCommand,
  listCommand,
  addCommand,
  removeCommand,
  flushCommand,
  unmountCommand,
  statsCommand,
  logLevelCommand,
  configCommand,
  doctorCommand,
  completionCommand,
];

const nameOf = ({ usage }: Command): string => usage.split(' ')[0]!;

/**
 * Tells `parser` all commands; `words` are what it is to parse. Completion and the man pages are made from it too
 * (reference.ts). Returns a function that says with what status the command that has run ended.
 */
export function declareCommands(parser: Argv, words: readonly string[] = []): () => number {
  let status = OK;
  parser
    .scriptName('vdisk')
    .usage('Usage: $0 COMMAND [options]')
    .parserConfiguration({ 'parse-positional-numbers': false, 'camel-case-expansion': false });
  for (const { usage, describe, take, run } of COMMANDS) {
    parser.command(
      usage,
      describe,
      (command) => void take(command),
      async (parsed) => {
        status = await run(parsed);
      },
    );
  }
  parser
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
      throw problem ?? wrongUsage(line, words, referenceOfVdisk(declareCommands));
    });
  return () => status;
}

/** Runs vdisk; returns its exit status: 0 done, 1 failed, 2 usage, but what a command says of its own. */
export async function main(args: readonly string[]): Promise<number> {
  const name = args.find((word) => !word.startsWith('-'));
  const command = COMMANDS.find((candidate) => nameOf(candidate) === name);
  const words = command?.arrange?.(args) ?? args;
  // yargs loses a name that is "-".
  const parser = yargs(words.map((word) => (word === '-' ? STDOUT : word)));
  const status = declareCommands(parser, args);
  const output = watchOutput();
  let problem: unknown;
  try {
    await parser.parseAsync();
  } catch (thrown) {
    problem = thrown;
  }
  problem = (await output.failure()) ?? problem;
  if (problem === undefined) return status();
  const { kind } = isClosedPipe(problem)
    ? { kind: undefined }
    : complain(helpful(problem, command), command?.writes);
  return command?.failed ?? (kind === 'usage' ? USAGE : FAILED);
}

/** A write to standard output that fails says so a moment later, and would end the process where nobody listens. */
function watchOutput(): { failure(): Promise<Error | undefined> } {
  let broken: Error | undefined;
  const onError = (problem: Error): void => {
    broken ??= problem;
  };
  process.stdout.on('error', onError);
  return {
    failure: async () => {
      await new Promise((done) => setImmediate(done));
      process.stdout.off('error', onError);
      if (broken === undefined || isClosedPipe(broken)) return broken;
      return ImageError.from(broken, 'io', 'standard output cannot be written');
    },
  };
}

/** `vdisk … | head` has what it wants. */
const isClosedPipe = (problem: unknown): boolean =>
  problem instanceof Error && 'code' in problem && problem.code === 'EPIPE';

/** Wrong usage without a hint of its own: with where the right one is told. What is wrong with a file is not told there. */
function helpful(problem: unknown, command: Command | undefined): unknown {
  if (!(problem instanceof ImageError) || problem.kind !== 'usage' || problem.hint !== undefined)
    return problem;
  if (problem.message.startsWith('/')) return problem;
  const hint = `See vdisk ${command === undefined ? '' : `${nameOf(command)} `}--help.`;
  return new ImageError('usage', problem.message, { hint, cause: problem });
}
