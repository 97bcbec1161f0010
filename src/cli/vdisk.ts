/** `vdisk COMMAND`: what can be done with an image without mounting it, and with a mount that serves. */

import yargs, { type Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { type Command, FAILED, OK, STDOUT, USAGE } from './command.ts';
import { complain } from './image-arguments.ts';
import { VERSION } from './version.ts';

/**
 * In the order in which help and the man page show them. Each is loaded when it is wanted: reading the code of all takes
 * longer than most commands do.
 */
const COMMANDS: ReadonlyMap<string, () => Promise<Command>> = new Map(
  Object.entries({
    info: async () => (await import('./info.ts')).infoCommand,
    check: async () => (await import('./check.ts')).checkCommand,
    map: async () => (await import('./map.ts')).mapCommand,
    compare: async () => (await import('./compare.ts')).compareCommand,
    hash: async () => (await import('./hash.ts')).hashCommand,
    verify: async () => (await import('./verify.ts')).verifyCommand,
    create: async () => (await import('./create.ts')).createCommand,
    convert: async () => (await import('./convert.ts')).convertCommand,
    resize: async () => (await import('./resize.ts')).resizeCommand,
    compact: async () => (await import('./compact.ts')).compactCommand,
    rebase: async () => (await import('./rebase.ts')).rebaseCommand,
    commit: async () => (await import('./commit.ts')).commitCommand,
    list: async () => (await import('./live/list.ts')).listCommand,
    add: async () => (await import('./live/members.ts')).addCommand,
    remove: async () => (await import('./live/members.ts')).removeCommand,
    flush: async () => (await import('./live/flush.ts')).flushCommand,
    unmount: async () => (await import('./live/unmount.ts')).unmountCommand,
    stats: async () => (await import('./live/stats.ts')).statsCommand,
    'log-level': async () => (await import('./live/log-level.ts')).logLevelCommand,
    config: async () => (await import('./config.ts')).configCommand,
    doctor: async () => (await import('./doctor.ts')).doctorCommand,
    completion: async () => (await import('./completion.ts')).completionCommand(commandsDeclared),
  }),
);

/** Only what is loaded is declared to the parser: the command that `words` begin with, or all. */
async function commandsFor(words: readonly string[]): Promise<readonly Command[]> {
  const load = COMMANDS.get(words[0] ?? '');
  return load === undefined ? await allCommands() : [await load()];
}

async function allCommands(): Promise<readonly Command[]> {
  return await Promise.all([...COMMANDS.values()].map((load) => load()));
}

const nameOf = ({ usage }: Command): string => usage.split(' ')[0]!;

/** Tells a parser all commands: completion and the man pages are made from it (reference.ts). */
export async function commandsDeclared(): Promise<(parser: Argv) => void> {
  const commands = await allCommands();
  return (parser) => void declare(parser, commands);
}

/** What yargs says of a command line that it cannot take. */
class WrongUsage extends Error {}

/**
 * Returns a function that runs the command that was parsed, and says with what status it ended. yargs does not run it:
 * for what takes time it would make the text of its help before.
 */
function declare(parser: Argv, commands: readonly Command[]): () => number | Promise<number> {
  let chosen: () => number | Promise<number> = () => OK;
  parser
    .scriptName('vdisk')
    .usage('Usage: $0 COMMAND [options]')
    .parserConfiguration({ 'parse-positional-numbers': false, 'camel-case-expansion': false });
  for (const { usage, describe, take, run } of commands) {
    parser.command(
      usage,
      describe,
      (command) => void take(command),
      (parsed) => {
        chosen = () => run(parsed);
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
      throw problem ?? new WrongUsage(message.replaceAll(/:?\n+ */g, ': '));
    });
  return () => chosen();
}

/** Runs vdisk; returns its exit status: 0 done, 1 failed, 2 usage, but what a command says of its own. */
export async function main(args: readonly string[]): Promise<number> {
  const commands = await commandsFor(args);
  const name = args.find((word) => !word.startsWith('-'));
  const command = commands.find((candidate) => nameOf(candidate) === name);
  const words = command?.arrange?.(args) ?? args;
  // yargs loses a name that is "-".
  const parser = yargs(words.map((word) => (word === '-' ? STDOUT : word)));
  const run = declare(parser, commands);
  const output = watchOutput();
  let status = OK;
  let problem: unknown;
  try {
    parser.parse();
    status = await run();
  } catch (thrown) {
    problem = thrown instanceof WrongUsage ? await inWords(thrown, args) : thrown;
  }
  problem = (await output.failure()) ?? problem;
  if (problem === undefined) return status;
  const { kind } = isClosedPipe(problem)
    ? { kind: undefined }
    : complain(helpful(problem, command), command?.writes);
  return command?.failed ?? (kind === 'usage' ? USAGE : FAILED);
}

async function inWords({ message }: WrongUsage, args: readonly string[]): Promise<ImageError> {
  const [{ wrongUsage }, { referenceOfVdisk }] = await Promise.all([
    import('./wrong-usage.ts'),
    import('./reference.ts'),
  ]);
  return wrongUsage(message, args, referenceOfVdisk(await commandsDeclared()));
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
