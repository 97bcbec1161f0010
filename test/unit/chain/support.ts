/** Directories with images for the tests of finding parents. */

import { mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { afterEach, beforeEach, expect } from 'vitest';
import { ImageError } from '../../../src/base/errors.ts';
import { openParents, type Parents } from '../../../src/chain/chain.ts';
import { type Layer, type LayerContext, openLayer } from '../../../src/chain/layer.ts';
import { type ChainPolicy, DEFAULT_POLICY } from '../../../src/chain/policy.ts';
import type { Image } from '../../../src/image/driver.ts';
import type { ParentLink, ParentPlace } from '../../../src/image/parent.ts';
import { TableAllocator } from '../../../src/shared/paged-table.ts';
import { qedBytes, withBacking } from '../../support/encoders/qed.ts';
import { encodeVdi, FREE } from '../../support/encoders/vdi.ts';
import { random } from '../../support/random.ts';

const uuid = (n: number): Uint8Array => {
  const bytes = new Uint8Array(16).fill(0x40);
  new DataView(bytes.buffer).setUint32(0, n, true);
  return bytes;
};

/** "create UUID 00000007-4040-…": as messages have that of image `id`. */
export const uuidText = (id: number): string =>
  `${id.toString(16).padStart(8, '0')}-4040-4040-4040-404040404040`;

export interface Family {
  /** Which image it is; others know it by that. */
  readonly id: number;
  /** Which image is its parent. */
  readonly parent?: number;
  /** In which state: what its children record. */
  readonly state?: number;
  readonly parentState?: number;
}

/** A small VDI; the first byte of its disk is `id`, and so is that of its only block. */
export function vdiBytes({ id, parent, state = 1, parentState = 1 }: Family): Uint8Array {
  const child =
    parent === undefined ? {} : { type: 4, linkage: uuid(parent), parentModify: uuid(0x1000 + parentState) };
  const identity = { create: uuid(id), modify: uuid(0x1000 + state) };
  return encodeVdi({ map: [FREE, 0], blockSize: 4096, ...identity, ...child }, random(id)).file;
}

/** A small QED without data; `backing` is the name of its backing file. */
export function qedOn(backing?: string, raw = false): Uint8Array {
  const plan = { clusterSize: 4096, tableSize: 2, imageSize: 4096 };
  return qedBytes(backing === undefined ? plan : withBacking(plan, backing, raw));
}

/** A link to a file at recorded places, known by the create UUID of image `id`, or by nothing. */
export function linkTo(
  places: readonly (string | ParentPlace)[],
  id?: number,
  more: Partial<ParentLink> = {},
): ParentLink {
  const wanted = id === undefined ? undefined : uuidText(id);
  return {
    places: places.map((place) =>
      typeof place === 'string' ? { path: place, style: 'windows', origin: 'test' } : place,
    ),
    identity: wanted === undefined ? undefined : `create UUID ${wanted}`,
    format: undefined,
    compare: (parent: Image) => {
      const found = parent.identity.find(({ name }) => name === 'uuid-create')?.text;
      return wanted === undefined || found === wanted
        ? undefined
        : { severity: 'other', wanted: `create UUID ${wanted}`, found: `create UUID ${found}` };
    },
    ...more,
  };
}

/** How many files this process has open: what a refusal leaves open shows. */
const openFiles = (): number => readdirSync('/proc/self/fd').length;

export interface Found extends Parents {
  /** Relative to the folder. */
  readonly paths: readonly string[];
  readonly notices: readonly string[];
}

/** A private directory for each test; all that was opened in it is closed at its end. */
export class Place {
  at = '';
  readonly #open: Layer[] = [];

  constructor() {
    beforeEach(() => {
      this.at = realpathSync(mkdtempSync(join(tmpdir(), 'vdisk-chain-')));
    });
    afterEach(() => {
      for (const { source } of this.#open.splice(0)) source.close();
      rmSync(this.at, { recursive: true, force: true });
    });
  }

  path(name: string): string {
    return join(this.at, name);
  }

  put(name: string, content: Uint8Array | Family): string {
    const path = this.path(name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, content instanceof Uint8Array ? content : vdiBytes(content));
    return path;
  }

  context(notices: string[]): LayerContext {
    return {
      tables: new TableAllocator(),
      report: (text) => notices.push(text),
      formatOptions: [],
      lock: true,
      holders: () => [],
    };
  }

  /** The parents of the image `top`, as a mount finds them; `link` in place of what the image says. */
  find(top: string, policy: Partial<ChainPolicy> = {}, link?: ParentLink): Found {
    const notices: string[] = [];
    const context = this.context(notices);
    const real = openLayer(this.path(top), 'read', undefined, context);
    this.#open.push(real);
    const layer =
      link === undefined ? real : { ...real, image: Object.create(real.image, { parent: { value: link } }) };
    const found = openParents(layer, { ...DEFAULT_POLICY, ...policy }, context);
    this.#open.push(...found.layers);
    return { ...found, paths: found.layers.map(({ path }) => relative(this.at, path)), notices };
  }

  /** The error of `find`, and in it where it was looked: "path: reason" with the folder's path taken away. */
  refused(...args: Parameters<Place['find']>): ImageError & { readonly looked: readonly string[] } {
    const before = openFiles();
    try {
      const { paths } = this.find(...args);
      expect.fail(`found ${paths}`);
    } catch (problem) {
      if (!(problem instanceof ImageError)) throw problem;
      // The image itself, which the test holds.
      expect(openFiles()).toBe(before + 1);
      const looked = (problem.wanted?.looked ?? []).map(({ path, reason }) =>
        this.short(`${path}: ${reason}`),
      );
      return Object.assign(problem, { looked });
    }
  }

  /** A text without the path of the folder. */
  short(text: string): string {
    return text.replaceAll(`${this.at}/`, '').replaceAll(this.at, '.');
  }
}
