/**
 * How each entry of dist/ is loaded: with the code that V8 made of it when it was built (scripts/cache-code.mjs). Compiling
 * it anew takes as long as Node's own start. Whether that code is of this V8 and of this text V8 sees itself; where it is
 * not, or is missing, the text is compiled as usual.
 *
 * This is a bundle of its own, which the others are loaded by. So nothing of the project is imported here.
 */

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import vm from 'node:vm';

/** Behind the name of a bundle. */
const CODE = '.code';

function codeOf(path: string): Buffer | undefined {
  try {
    return readFileSync(path + CODE);
  } catch {
    return undefined;
  }
}

/** The bundle at `path`, not run yet. */
export function compile(path: string): vm.Script {
  // On one line with the text: places in stack traces stay as they are.
  const text = `(function (exports, require, module, __filename, __dirname) { ${readFileSync(path, 'utf8')}\n})`;
  return new vm.Script(text, {
    filename: path,
    cachedData: codeOf(path),
  });
}

/** Runs the bundle `name` of `folder`; returns what it exports. */
export function load(folder: string, name: string): unknown {
  const path = join(folder, name);
  const module = { exports: {} };
  const run = compile(path).runInThisContext() as (...args: unknown[]) => void;
  run(module.exports, createRequire(path), module, path, folder);
  return module.exports;
}
