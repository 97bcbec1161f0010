/** Where the file of a parent may be: which paths are tried, in which order, and which are refused unopened. */

import { basename, dirname, join, normalize } from 'node:path';
import { quoted } from '../base/text.ts';
import type { ParentLink, ParentPlace } from '../image/parent.ts';
import { type Folders, foldedName } from './folder.ts';
import { type Gate, SNAPSHOTS } from './gate.ts';
import type { ChainPolicy } from './policy.ts';
import { type RecordedPath, readRecorded } from './recorded.ts';
import type { Scanner } from './scan.ts';

/** How a path was come by. */
export type Found =
  /** The user named it. */
  | 'named'
  /** It is where the image says. */
  | 'recorded'
  /** It has the recorded name and lies beside the child, although the image says another place. */
  | 'beside'
  /** It has the recorded name and lies in a directory that the user named. */
  | 'parent-dir'
  /** It has the recorded identity. */
  | 'scanned';

export interface Candidate {
  /** Absolute; or, of a place that cannot lead to a file here, as it is recorded, in quotes. */
  readonly path: string;
  readonly how: Found;
  /** Not to be opened, and why; or what came of looking there. */
  readonly refused?: string;
  /** Not worth a word where it is not there. */
  readonly quiet?: boolean;
}

export interface Search {
  readonly policy: ChainPolicy;
  readonly gate: Gate;
  readonly folders: Folders;
  readonly scanner: Scanner;
}

interface Recorded {
  readonly place: ParentPlace;
  readonly path: RecordedPath;
}

type Usable = Exclude<RecordedPath, { kind: 'refused' }>;

/** `"..\\base.vhdx" (relative_path)`: a recorded place in messages. */
export const shownPlace = ({ path, origin }: ParentPlace): string => `${quoted(path)} (${origin})`;

/**
 * The places where the parent of the image in `directory` (a real path) may be, in the order in which they are tried:
 * what the user named, where the image says, beside it, in the directories of the user, and at last whatever has the
 * identity. Opens nothing but the images of a directory, for the last.
 *
 * Where nothing is recorded by which a parent can be known (QED), a file that the user named for another image of
 * the chain would pass for this one's. So there it comes first only where it has the recorded name or the user insists
 * (`force`), and after the recorded places otherwise.
 */
export function* candidates(directory: string, link: ParentLink, search: Search): Generator<Candidate> {
  const { policy, gate, scanner } = search;
  const recorded = link.places.map((place): Recorded => ({ place, path: readRecorded(place) }));
  const usable = recorded.flatMap(({ path }) => (path.kind === 'refused' ? [] : [path]));

  const first = policy.parents.filter(
    (path) => link.identity !== undefined || policy.force || usable.some((known) => hasName(known, path)),
  );
  for (const path of first) yield { path, how: 'named' };
  for (const { place, path } of recorded) yield* whereRecorded(directory, place, path, search);
  for (const known of usable) yield* at(directory, known.parts.slice(-1), known, 'beside', search);
  for (const parentDir of gate.parentDirs) {
    for (const known of usable) {
      const tail = known.parts.filter((part) => part !== '..');
      for (let start = 0; start < tail.length; start += 1) {
        yield* at(parentDir, tail.slice(start), known, 'parent-dir', search);
      }
    }
  }
  for (const path of policy.parents) if (!first.includes(path)) yield { path, how: 'named' };
  if (link.identity === undefined) return;
  for (const scanned of directoriesToScan(directory, search)) yield* scanner.find(scanned, link);
}

function hasName({ parts, fold }: Usable, path: string): boolean {
  const [name, wanted] = [basename(path), parts.at(-1)!];
  return fold ? foldedName(name) === foldedName(wanted) : name === wanted;
}

function* whereRecorded(
  directory: string,
  place: ParentPlace,
  path: RecordedPath,
  search: Search,
): Generator<Candidate> {
  if (path.kind === 'here') {
    yield* at(path.absolute ? '/' : directory, path.parts, path, 'recorded', search);
  } else yield { path: shownPlace(place), how: 'recorded', refused: path.reason };
}

/** The files that `parts` lead to from `directory`: one, or several that differ in case. */
function* at(
  directory: string,
  parts: readonly string[],
  { fold }: Usable,
  how: Found,
  { gate, folders }: Search,
): Generator<Candidate> {
  const path = normalize(join(directory, ...parts));
  const quiet = how === 'parent-dir' && parts.length > 1;
  const tree = gate.treeOf(path);
  if (tree === undefined) {
    yield { path, how, refused: gate.outside };
    return;
  }
  let any = false;
  if (fold) {
    const below = path.slice(tree.length).split('/').filter(Boolean);
    for (const found of folders.folded(tree, below)) {
      any = true;
      yield { path: found, how };
    }
  }
  if (!any) yield { path, how, quiet };
}

/**
 * VirtualBox keeps snapshots below the machine's directory, where the base images are: from the one the search goes up
 * to the other, and from a directory that the user named down to its snapshots. Hyper-V keeps both in one directory.
 */
function directoriesToScan(directory: string, { gate, folders }: Search): Set<string> {
  const below = (path: string): string[] =>
    folders.list(path).some((entry) => entry.name === SNAPSHOTS && entry.isDirectory())
      ? [join(path, SNAPSHOTS)]
      : [];
  return new Set([
    directory,
    ...(basename(directory) === SNAPSHOTS ? [dirname(directory)] : []),
    ...gate.parentDirs.flatMap((path) => [path, ...below(path)]),
  ]);
}
