/**
 * Looking for a parent by its identity, among the images of a directory: VDI records no path at all, and those of the
 * other formats go stale when files are renamed.
 */

import { extname, join } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { DRIVERS } from '../formats/registry.ts';
import type { Image } from '../image/driver.ts';
import { openImage } from '../image/open.ts';
import type { ParentLink } from '../image/parent.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import { openFile } from '../source/file.ts';
import type { Candidate } from './find.ts';
import type { Folders } from './folder.ts';
import type { Gate } from './gate.ts';
import { type LayerContext, openContextOf } from './layer.ts';

/** Files opened in search of the parents of one chain. */
export const MAX_SCANNED = 4096;

/** Only files that are named like images of formats that have an identity. */
const SUFFIXES = new Set(DRIVERS.filter(({ id }) => id !== 'raw').flatMap(({ suffixes }) => suffixes));

export class Scanner {
  readonly #gate: Gate;
  readonly #folders: Folders;
  readonly #context: LayerContext;
  /** Each file is opened once, however many images of the chain look for their parent. */
  readonly #seen = new Map<string, Image | undefined>();

  constructor(gate: Gate, folders: Folders, context: LayerContext) {
    this.#gate = gate;
    this.#folders = folders;
    this.#context = context;
  }

  /** The images in `directory` that may be the parent, and at last what came of looking. */
  *find(directory: string, link: ParentLink): Generator<Candidate> {
    if (!this.#gate.allowsDirectory(directory)) return;
    let images = 0;
    for (const entry of this.#folders.list(directory)) {
      // Links are left out: what they lead to is outside, or is met in its own place.
      if (!entry.isFile() || !SUFFIXES.has(extname(entry.name).toLowerCase())) continue;
      const path = join(directory, entry.name);
      if (!this.#seen.has(path)) {
        if (this.#seen.size >= MAX_SCANNED) {
          yield { path: directory, how: 'scanned', refused: `only ${MAX_SCANNED} files are looked into` };
          return;
        }
        this.#seen.set(path, this.#look(path));
      }
      const image = this.#seen.get(path);
      if (image === undefined) continue;
      images += 1;
      const mismatch = link.compare(image);
      if (mismatch === undefined || mismatch.severity === 'changed') yield { path, how: 'scanned' };
    }
    const refused = images === 0 ? 'no image is in it' : `none of the images in it (${images}) is the one`;
    yield { path: directory, how: 'scanned', refused };
  }

  /** What the image at `path` says of itself; undefined where it is none that can be read. */
  #look(path: string): Image | undefined {
    const admitted = this.#gate.admit(path);
    if ('refused' in admitted) return undefined;
    try {
      const source = openFile(admitted.path, 'read', this.#context.noAtime === true);
      try {
        this.#gate.verify(source.share().fd);
        const context = {
          ...openContextOf(path, this.#context),
          tables: new TableAllocator(),
          report: () => {},
        };
        return closed(openImage(source, { drivers: DRIVERS, format: undefined, device: false, context }));
      } finally {
        source.close();
      }
    } catch {
      // Most files of a directory are none of our business, and the right one is opened again, with its errors told.
      return undefined;
    }
  }
}

/** What remains of an image when its file is closed: nothing that was read of its tables or log is kept. */
function closed(image: Image): Image {
  const { format, variant, virtualSize, logicalSectorSize, physicalSectorSize, blockSize } = image;
  const { identity, parent, facts } = image;
  const gone = (): never => {
    throw new ImageError('bug', 'an image that was only looked at is closed');
  };
  return {
    format,
    variant,
    virtualSize,
    logicalSectorSize,
    physicalSectorSize,
    blockSize,
    identity,
    parent,
    facts,
    countAllocated: gone,
    share: gone,
    prepareEdit: gone,
  };
}
