/** Being run in a directory that was deleted: Node says so with an error of its own, wherever a path is resolved. */

import { ImageError } from '../base/errors.ts';

/**
 * Where the current directory is gone, a relative path is wrong usage from now on, and absolute ones serve. Libraries
 * that ask for it as they are loaded, by `load`, get the root.
 */
export async function withoutDirectory<Result>(load: () => Promise<Result>): Promise<Result> {
  try {
    process.cwd();
    return await load();
  } catch (problem) {
    if (!(problem instanceof Error) || !('syscall' in problem) || problem.syscall !== 'uv_cwd') throw problem;
  }
  process.cwd = () => '/';
  try {
    return await load();
  } finally {
    process.cwd = () => {
      throw new ImageError('usage', 'the current directory is not there any more', {
        hint: 'Change to another one (cd), or give absolute paths.',
      });
    };
  }
}
