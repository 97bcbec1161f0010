/**
 * Entry of `vdisk`. Loading what reads the command line takes as long as starting the threads of a conversion: so these
 * are started before.
 */

import { startEarly } from '../convert/workers.ts';
import { withoutDirectory } from './gone-directory.ts';

/** See main in vdisk.ts. */
export async function main(args: readonly string[]): Promise<number> {
  if (args[0] === 'convert' && args.length > 2) startEarly();
  const vdisk = await withoutDirectory(() => import('./vdisk.ts'));
  return await vdisk.main(args);
}
