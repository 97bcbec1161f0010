/** `vdisk-mount [options] IMAGE... MOUNTPOINT`: from a text to its mount: starts it, says how it went. */

import { ImageError } from '../base/errors.ts';
import type { MountConfig } from '../daemon/config.ts';
import { exitCodeOf, exitCodeOfEnd, INTERRUPTED, OK } from '../daemon/exit-code.ts';
import { startDaemon } from '../daemon/launch.ts';

/** Words that say that no daemon in the background is wanted. It is only a guess, for speed. */
const STAYS = /^(-[a-zA-Z]*[fdhV]|--(foreground|debug|help|version))$|^(-o)?(.*,)?(foreground|debug)(,|$)/;

async function run(args: readonly string[]): Promise<number> {
  const daemon = args.length < 2 || args.some((word) => STAYS.test(word)) ? undefined : startDaemon();
  try {
    const { configure, readCommandLine } = await import('./mount-command.ts');
    const commandLine = readCommandLine(args);
    if (typeof commandLine === 'string') {
      await printAbout(commandLine);
      return OK;
    }
    const config = configure(commandLine);
    // mount(8) always says rw or ro, so it is worth a word only to those who want to hear more.
    if (config.verbose && commandLine.values.has('rw')) {
      process.stderr.write('vdisk-mount: this version only reads: mounting read-only\n');
    }
    if (config.foreground) return await serveInForeground(config);
    const notices = await (daemon ?? startDaemon()).mount(config);
    for (const notice of notices) process.stderr.write(`vdisk-mount: warning: ${notice}\n`);
    return OK;
  } finally {
    daemon?.dismiss();
  }
}

async function printAbout(what: 'help' | 'version'): Promise<void> {
  const [{ mountHelp, versionText }, { VERSION }] = await Promise.all([
    import('./mount-help.ts'),
    import('./version.ts'),
  ]);
  process.stdout.write(what === 'help' ? await mountHelp() : versionText(VERSION));
}

async function serveInForeground(config: MountConfig): Promise<number> {
  const [{ openLog }, { serveMount }] = await Promise.all([
    import('../daemon/log.ts'),
    import('../daemon/serve.ts'),
  ]);
  const log = openLog({ to: config.logFile ?? 'stderr', level: config.verbose ? 'debug' : 'info' });
  const end = await serveMount(config, { log, ready: () => {} });
  return exitCodeOfEnd(end);
}

/** Runs vdisk-mount; returns its exit status. Errors are one line on stderr, and a second with what to do. */
export async function main(args: readonly string[]): Promise<number> {
  let interrupted = false;
  const onInterrupt = (): void => {
    interrupted = true;
  };
  process.once('SIGINT', onInterrupt);
  try {
    return await run(args);
  } catch (problem) {
    const error = ImageError.from(problem, 'bug');
    process.stderr.write(`vdisk-mount: ${error.message}\n`);
    if (error.hint !== undefined) process.stderr.write(`  ${error.hint}\n`);
    if (error.kind === 'bug' && problem instanceof Error) process.stderr.write(`${problem.stack}\n`);
    return interrupted ? INTERRUPTED : exitCodeOf(error.kind);
  } finally {
    process.off('SIGINT', onInterrupt);
  }
}
