/** `vdisk-mount [options] IMAGE... MOUNTPOINT`: from a text to its mount: starts it, says how it went. */

import { ImageError } from '../base/errors.ts';
import type { MountConfig } from '../daemon/config.ts';
import { exitCodeOf, exitCodeOfEnd, INTERRUPTED, OK } from '../daemon/exit-code.ts';
import { INHERITED_DEVICE, startDaemon } from '../daemon/launch.ts';

import { visibilityNote } from '../daemon/visibility.ts';

import { withoutDirectory } from './gone-directory.ts';

import { ProgressLine } from './progress-line.ts';

/** Words that say that no daemon in the background is wanted. It is only a guess, for speed. */
const STAYS = /^(-[a-zA-Z]*[fdhV]|--(foreground|debug|help|version))$|^(-o)?(.*,)?(foreground|debug)(,|$)/;

/** N of a mountpoint "/dev/fd/N": mount.fuse3 has mounted it already, and hands us the device. */
function givenDevice(args: readonly string[]): number | undefined {
  const found = args.map((word) => /^\/dev\/fd\/(\d+)$/.exec(word)?.[1]).find((text) => text !== undefined);
  return found === undefined ? undefined : Number(found);
}

/** `begin` is called when signals become the business of what it then waits for. */
async function run(args: readonly string[], begin: () => void): Promise<number> {
  const device = givenDevice(args);
  const stays = args.length < 2 || args.some((word) => STAYS.test(word));
  const daemon = stays ? undefined : startDaemon(device);
  try {
    const { configure, readCommandLine } = await import('./mount-command.ts');
    const commandLine = readCommandLine(args);
    if (typeof commandLine === 'string') {
      await printAbout(commandLine);
      return OK;
    }
    const config = configure(commandLine);
    begin();
    if (config.foreground) return await serveInForeground(config);
    const mountpoint = device === undefined ? config.mountpoint : `/dev/fd/${INHERITED_DEVICE}`;
    const progress = new ProgressLine('vdisk-mount');
    const notices = await (daemon ?? startDaemon(device))
      .mount({ ...config, mountpoint }, (text) => progress.show(text))
      .finally(() => progress.clear());
    for (const notice of notices) process.stderr.write(`vdisk-mount: warning: ${notice}\n`);
    // For a person only: programs expect silence. The log has it always.
    const note = process.stderr.isTTY ? visibilityNote(config) : undefined;
    if (note !== undefined) process.stderr.write(`vdisk-mount: ${note.text}\n  ${note.hint}\n`);
    return endMounted();
  } finally {
    daemon?.dismiss();
  }
}

/**
 * The end of a command whose mount is there. Where Node comes to its end by itself, signals do by then what they do by
 * default: one would end this as if nothing were mounted.
 */
function endMounted(): number {
  if (process.stderr.writableLength === 0) process.exit(OK);
  return OK;
}

async function complain({ message, explanation }: ImageError): Promise<void> {
  const text = [`vdisk-mount: ${message}`, ...explanation.map((line) => `  ${line}`)].join('\n');
  const { JOURNAL_STREAM } = process.env;
  const inJournal = JOURNAL_STREAM !== undefined && (await import('../daemon/log.ts')).isJournal();
  process.stderr.write(`${inJournal ? text.replace(/^/gm, '<3>') : text}\n`);
}

async function printAbout(what: 'help' | 'version'): Promise<void> {
  const [{ mountHelp, versionText }, { VERSION }] = await Promise.all([
    import('./mount-help.ts'),
    import('./version.ts'),
  ]);
  process.stdout.write(what === 'help' ? await mountHelp() : versionText(VERSION));
}

async function serveInForeground(config: MountConfig): Promise<number> {
  const [{ openLog, setLogLevel }, { serveMount }] = await Promise.all([
    import('../daemon/log.ts'),
    import('../daemon/serve.ts'),
  ]);
  const log = openLog({
    ...config,
    to: config.logFile ?? 'stderr',
    level: config.verbose ? 'debug' : 'info',
  });
  const line = new ProgressLine('vdisk-mount');
  const progress = (text: string): void => line.show(text);
  const end = await serveMount(config, {
    log,
    setLogLevel: (level) => setLogLevel(log, level),
    ready: () => line.clear(),
    progress,
  }).finally(() => line.clear());
  return exitCodeOfEnd(end);
}

/** Runs vdisk-mount; returns its exit status. Errors are one line on stderr, and a second with what to do. */
export async function main(args: readonly string[]): Promise<number> {
  let begun = false;
  const onInterrupt = (): void => {
    // Nothing has been asked for: a daemon that waits ends with us.
    if (!begun) process.exit(INTERRUPTED);
  };
  // To the end of the process: once the mount is there, a signal shall not make this end as if it were not.
  process.on('SIGINT', onInterrupt);
  process.on('SIGTERM', onInterrupt);
  try {
    await withoutDirectory(async () => {});
    return await run(args, () => {
      begun = true;
    });
  } catch (problem) {
    const error = ImageError.from(problem, 'bug');
    await complain(error);
    if (error.kind === 'bug' && problem instanceof Error) process.stderr.write(`${problem.stack}\n`);
    return exitCodeOf(error.kind);
  }
}
