/** Where the file of a parent may be: which paths are tried, and which are refused unopened. */

import { statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { ParentLink } from '../image/parent.ts';
import type { ChainPolicy } from './policy.ts';

/** A path worth opening, or one that is not, with why: "not there", "outside of /vm". */
export interface Candidate {
  readonly path: string;
  readonly refused: string | undefined;
}

/**
 * The places where the parent of the image at `child` may be, in the order in which they are tried. `root` is the
 * path of the first image of the chain. Opens nothing.
 */
export function* candidates(
  child: string,
  link: ParentLink,
  _root: string,
  policy: ChainPolicy,
): Generator<Candidate> {
  for (const path of policy.parents) yield { path, refused: undefined };
  for (const { path } of link.places) {
    const name = path.split(/[\\/]/).at(-1)!;
    const found = join(dirname(child), name);
    const there = statSync(found, { throwIfNoEntry: false })?.isFile() === true;
    yield { path: found, refused: there ? undefined : 'not there' };
  }
}
