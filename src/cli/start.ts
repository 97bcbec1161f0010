/**
 * Entry of `vdisk`. Loading what reads the command line takes as long as starting the threads of a conversion: so these
 * are started before.
 */

import { startEarly } from '../convert/workers.ts';
import { exitAtOnce } from '../source/syscalls.ts';
import { withoutDirectory } from './gone-directory.ts';

/** Runs vdisk (main in vdisk.ts), and ends the process with its status. */
export async function start(args: readonly string[]): Promise<void> {
  if (args[0] === 'convert' && args.length > 2) startEarly();
  const { main } = await withoutDirectory(() => import('./vdisk.ts'));
  const status = await main(args);
  process.exitCode = status;
  if (endsHere()) exitAtOnce(status);
}

/**
 * Taking threads and heaps down takes up to 50 ms, for a process that has nothing to do any more. But who gave Node options
 * of his own may want what it does at its end, such as profiles.
 */
function endsHere(): boolean {
  const { execArgv, env, stdout, stderr } = process;
  if (execArgv.length > 0 || env['NODE_OPTIONS'] !== undefined || env['NODE_V8_COVERAGE'] !== undefined)
    return false;
  return stdout.writableLength === 0 && stderr.writableLength === 0;
}
