/** From an image to its parents: each is found, opened for reading, and judged by its child. */

import { fstatSync } from 'node:fs';
import { dirname } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import type { Report } from '../image/driver.ts';
import type { ParentLink, ParentMismatch } from '../image/parent.ts';
import { type Candidate, candidates, type Search } from './find.ts';
import { Folders } from './folder.ts';
import { admitNamed, Gate, keyOf, realPathOf } from './gate.ts';
import { type Layer, type LayerContext, openLayer } from './layer.ts';
import { Looked } from './looked.ts';
import type { ChainPolicy } from './policy.ts';
import { Scanner } from './scan.ts';

/** Images of a chain, the first included. */
export const MAX_DEPTH = 64;

export interface Parents {
  /** Nearest first. */
  readonly layers: readonly Layer[];
  /** Why the chain may be read only: a parent is not (quite) the recorded one. */
  readonly readOnly: string | undefined;
}

/**
 * Opens the parents of `top`, down to an image that stands alone. Throws ImageError with none of them left open:
 * 'missing' says which file is wanted, by whom, and where it was looked for; where one file alone was to blame, the
 * error is that file's: 'mismatched', 'in-use', 'denied', 'corrupt', …
 */
export function openParents(top: Layer, policy: ChainPolicy, context: LayerContext): Parents {
  const layers: Layer[] = [];
  if (top.image.parent === undefined) return { layers, readOnly: undefined };
  const chain = new Chain(top, policy, context);
  const reasons: string[] = [];
  try {
    for (let child = top; child.image.parent !== undefined; child = layers.at(-1)!) {
      if (layers.length + 2 > MAX_DEPTH) {
        throw new ImageError(
          'unsupported',
          `${top.path}: its chain of parents has more than ${MAX_DEPTH} images`,
        );
      }
      const { layer, doubt } = chain.openParent(child, child.image.parent);
      layers.push(layer);
      if (doubt !== undefined) reasons.push(doubt);
    }
    return { layers, readOnly: reasons[0] };
  } catch (problem) {
    for (const { source } of layers) source.close();
    throw problem;
  }
}

/** The files of `policy` that are no parent in any of these chains: the user may have meant something else. */
export function unusedParents(policy: ChainPolicy, parents: readonly Layer[]): string[] {
  const used = new Set(parents.map(keyOfLayer));
  return policy.parents.filter((path) => {
    const file = admitNamed(path);
    return 'refused' in file || !used.has(file.key);
  });
}

/** A parent that may be used, and why it may not be built upon. */
interface Accepted {
  readonly layer: Layer;
  readonly doubt: string | undefined;
}

interface Opened {
  readonly layer: Layer;
  readonly notices: HeldNotices;
  readonly mismatch: ParentMismatch | undefined;
  readonly how: Candidate['how'];
}

/** What is said of a file is kept until it is known to be the parent. */
class HeldNotices {
  #held: string[] | undefined = [];
  readonly #report: Report;

  constructor(report: Report) {
    this.#report = report;
  }

  readonly report: Report = (text) => {
    if (this.#held === undefined) this.#report(text);
    else this.#held.push(text);
  };

  release(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const text of held) this.#report(text);
  }
}

class Chain {
  readonly #search: Search;
  readonly #context: LayerContext;
  /** The files of the chain so far. */
  readonly #seen = new Map<string, string>();

  constructor(top: Layer, policy: ChainPolicy, context: LayerContext) {
    const gate = new Gate(top.device ? undefined : realPathOf(top.source.share().fd), policy, context.report);
    const folders = new Folders();
    this.#search = { policy, gate, folders, scanner: new Scanner(gate, folders, context) };
    this.#context = context;
    this.#seen.set(keyOfLayer(top), top.path);
  }

  openParent(child: Layer, link: ParentLink): Accepted {
    const looked = new Looked(child.path, link);
    const directory = dirname(realPathOf(child.source.share().fd));
    const tried = new Set<string>();
    let second: Opened | undefined;
    try {
      for (const candidate of candidates(directory, link, this.#search)) {
        const opened = this.#try(candidate, link, tried, looked);
        if (opened === undefined) continue;
        if (opened.mismatch === undefined) {
          second?.layer.source.close();
          return this.#accept(child, link, opened);
        }
        // What is only changed is nearer to the mark than another image that the user insists on.
        if (second === undefined || gravity(opened) < gravity(second)) {
          second?.layer.source.close();
          second = opened;
        } else opened.layer.source.close();
      }
    } catch (problem) {
      second?.layer.source.close();
      throw problem;
    }
    if (second === undefined) throw looked.failure();
    return this.#accept(child, link, second);
  }

  /** Opens a candidate. Undefined where it is not the parent; `looked` is told why. */
  #try(candidate: Candidate, link: ParentLink, tried: Set<string>, looked: Looked): Opened | undefined {
    const { path, how, refused } = candidate;
    if (tried.has(`${path} ${refused}`)) return undefined;
    tried.add(`${path} ${refused}`);
    if (refused !== undefined) return looked.at(path, refused);
    const named = how === 'named';
    const admitted = named ? admitNamed(path) : this.#search.gate.admit(path);
    if ('refused' in admitted) {
      return candidate.quiet === true && admitted.missing ? undefined : looked.at(path, admitted.refused);
    }
    const cycle = this.#seen.get(admitted.key);
    if (cycle !== undefined) {
      const text = `it is ${shownPath(cycle)} of this chain`;
      if (named) return looked.at(path, text);
      return looked.failed(path, new ImageError('corrupt', `${text}: an image cannot be its own parent`));
    }
    if (tried.has(admitted.key)) return undefined;
    tried.add(admitted.key);
    return this.#open(named ? path : admitted.path, how, link, looked);
  }

  #open(path: string, how: Candidate['how'], link: ParentLink, looked: Looked): Opened | undefined {
    const { gate, policy } = this.#search;
    const notices = new HeldNotices(this.#context.report);
    let layer: Layer;
    try {
      layer = openLayer(
        path,
        'read',
        link.format,
        { ...this.#context, report: notices.report },
        {
          anyNameIsRaw: link.identity === undefined,
          ...(how === 'named' ? {} : { verify: (fd) => gate.verify(fd) }),
        },
      );
    } catch (problem) {
      return looked.failed(path, ImageError.from(problem, 'bug'));
    }
    const mismatch = link.compare(layer.image);
    const taken =
      mismatch === undefined ||
      mismatch.severity === 'changed' ||
      (mismatch.severity === 'other' && policy.force);
    if (taken) return { layer, notices, mismatch, how };
    layer.source.close();
    return looked.mismatched(path, mismatch);
  }

  #accept(child: Layer, link: ParentLink, { layer, notices, mismatch, how }: Opened): Accepted {
    const { report } = this.#context;
    const path = shownPath(layer.path);
    this.#seen.set(keyOfLayer(layer), layer.path);
    notices.release();
    if (link.format === undefined && link.identity === undefined && layer.image.format === 'raw') {
      report(
        `${child.path}: does not record the format of its parent ${path}, which matches none: it is taken as raw`,
      );
    }
    if (mismatch !== undefined) {
      const how = mismatch.severity === 'changed' ? 'was changed since' : 'is another image';
      report(
        `${child.path}: its parent ${path} ${how}: wanted is ${mismatch.wanted}, found ${mismatch.found}`,
      );
      return { layer, doubt: `its parent ${path} ${how}` };
    }
    if (how !== 'beside' || link.identity !== undefined) return { layer, doubt: undefined };
    report(
      `${child.path}: its parent ${path} has the recorded name, but is not where the image says, and nothing else ` +
        'is recorded to know it by',
    );
    return {
      layer,
      doubt: `its parent ${path} was found by its name alone (--parent says that it is the one)`,
    };
  }
}

const gravity = ({ mismatch }: Opened): number => (mismatch?.severity === 'changed' ? 0 : 1);

/** Two layers with the same key are one file. */
export const keyOfLayer = ({ source }: Layer): string => keyOf(fstatSync(source.share().fd));
