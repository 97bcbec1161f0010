/** `vdisk map`: where the bytes of a disk are: in which image of the chain, and at which place of its file. */

import { resolve } from 'node:path';
import type { Argv } from 'yargs';
import { ImageError } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { type ByteCount, formatSize, hex, parseSize } from '../base/units.ts';
import type { Layer } from '../chain/layer.ts';
import { type Origin, originsOf } from '../disk/walker.ts';
import { DATA, HOLE, ZERO } from '../image/extent.ts';
import { AllocationBar, showsUnicode } from './allocation-bar.ts';
import { type Command, OK } from './command.ts';
import {
  type ImageArguments,
  imageArguments,
  takeImageOptions,
  takeParentArguments,
} from './image-arguments.ts';
import { type ChainLayers, closeChain, diskOfChain, openChain, reportUnusedParents } from './open-chain.ts';

/** Written at once: a map may have more lines than fit into memory. */
const PIECE = 64 * 1024;

const MAP_HELP =
  'Kinds: data; sparse: allocated, in a hole of the image file, so zeros; zero: zeros, whatever a parent has; ' +
  'hole: in no image, so zeros. The layer is 0 for the image, 1 for its parent, and so on; the offset is that in ' +
  "the layer's file. With --layer, a hole shows the parent where there is one. JSON has the fields of qemu-img map. " +
  'Exit status: 0 done, 1 failed (what was printed ends before the place that could not be told), 2 usage.';

interface MapArguments extends Omit<ImageArguments, 'paths'> {
  readonly path: string;
  /** What this image of the chain holds by itself; undefined: what all show together. */
  readonly layer: number | undefined;
  /** Only from here on, and only so many bytes. */
  readonly start: ByteCount;
  readonly length: ByteCount;
}

function takeMapArguments(command: Argv): void {
  command.positional('image', { type: 'string', demandOption: true, describe: 'image file' });
  takeParentArguments(takeImageOptions(command))
    .option('layer', {
      type: 'string',
      requiresArg: true,
      describe: 'only what this image of the chain holds: 0 the image, 1 its parent, …',
    })
    .option('start', {
      type: 'string',
      requiresArg: true,
      describe: 'from this byte of the disk on: 64K, 2G; from its beginning by default',
    })
    .option('length', {
      type: 'string',
      requiresArg: true,
      describe: 'so many bytes of it; to its end by default',
    })
    .example('$0 map disk.vhdx', 'a table; on a terminal also a bar of what is allocated')
    .example('$0 map --json snapshot.avhdx', 'for programs, in the field names of qemu-img map')
    .example('$0 map --start 1M --length 64K disk.vdi', 'a part of the disk')
    .example('$0 map --layer 0 child.vhd', 'what the child alone holds; its parent may be missing')
    .epilogue(MAP_HELP);
}

/** Throws ImageError('usage'). */
function mapArguments(parsed: Record<string, unknown>): MapArguments {
  const layer = parsed['layer'];
  if (layer !== undefined && (typeof layer !== 'string' || !/^\d{1,3}$/.test(layer))) {
    throw new ImageError('usage', '--layer: expected one number: 0 for the image, 1 for its parent, …');
  }
  return {
    ...imageArguments(parsed),
    path: String(parsed['image']),
    layer: layer === undefined ? undefined : Number(layer),
    start: sizeOption(parsed, 'start') ?? 0,
    length: sizeOption(parsed, 'length') ?? Number.POSITIVE_INFINITY,
  };
}

function sizeOption(parsed: Record<string, unknown>, name: 'start' | 'length'): ByteCount | undefined {
  const text = parsed[name];
  if (text === undefined) return undefined;
  const bytes = typeof text === 'string' ? parseSize(text) : undefined;
  if (bytes !== undefined && (bytes > 0 || name === 'start')) return bytes;
  throw new ImageError(
    'usage',
    `--${name}: expected one number of bytes${name === 'length' ? ' above 0' : ''}`,
    {
      hint: 'Like 65536, or with K, M, G or T behind it: 64K.',
    },
  );
}

/** Bytes of the disk: from `from` to before `end`. */
interface Range {
  readonly from: number;
  readonly end: number;
}

function rangeOf({ start, length }: MapArguments, [{ path, image }]: ChainLayers): Range {
  const { virtualSize } = image;
  if (start > 0 && start >= virtualSize) {
    throw new ImageError(
      'usage',
      `--start: ${start} is not within the disk, which has ${virtualSize} bytes`,
      {
        hint: `vdisk info ${shownPath(path)} says how large it is.`,
      },
    );
  }
  return { from: start, end: Math.min(virtualSize, start + length) };
}

/** The layers that are asked, the first on top, and the number of that one in the chain. */
interface Asked {
  readonly layers: ChainLayers;
  readonly first: number;
  /** Whether a parent stands below them, which is not asked. */
  readonly parentBelow: boolean;
}

function asked(chain: ChainLayers, layer: number | undefined): Asked {
  if (layer === undefined) return { layers: chain, first: 0, parentBelow: false };
  const wanted = chain[layer];
  if (wanted !== undefined) {
    return { layers: [wanted], first: layer, parentBelow: wanted.image.parent !== undefined };
  }
  throw new ImageError('usage', `${chain[0].path}: has no layer ${layer}`, {
    hint: `Its chain has ${chain.length} image${chain.length === 1 ? '' : 's'}: --layer=0 to ${chain.length - 1}.`,
  });
}

/** Puts text into standard output in large pieces, and waits for each; throws where nobody takes it. */
class Output {
  #held: string[] = [];
  #length = 0;

  async put(text: string): Promise<void> {
    this.#held.push(text);
    this.#length += text.length;
    if (this.#length >= PIECE) await this.flush();
  }

  async flush(): Promise<void> {
    const text = this.#held.join('');
    this.#held = [];
    this.#length = 0;
    if (text === '') return;
    await new Promise<void>((done, fail) => {
      process.stdout.write(text, (problem) => (problem ? fail(problem) : done()));
    });
  }
}

/** How the runs of a map are written. */
interface Shape {
  begin(): string;
  run(run: Origin): string;
  end(): string;
}

/** An object a line, as qemu-img writes them. */
function asJson({ layers, first, parentBelow }: Asked): Shape {
  let begun = false;
  return {
    begin: () => '[',
    run({ at, length, kind, sparse, depth, host }) {
      const zero = sparse || kind === ZERO || (kind === HOLE && !parentBelow);
      const entry = {
        start: at,
        length,
        depth: depth + first,
        present: kind !== HOLE,
        zero,
        data: kind === DATA && !sparse,
        compressed: false,
        ...(kind === DATA ? { offset: host, filename: layers[depth]!.path } : {}),
      };
      const before = begun ? ',\n' : '';
      begun = true;
      return before + JSON.stringify(entry);
    },
    end: () => ']\n',
  };
}

const KINDS = ['data', 'sparse', 'zero', 'hole'] as const;
type Kind = (typeof KINDS)[number];

const kindOf = ({ kind, sparse }: Origin): Kind =>
  sparse ? 'sparse' : kind === DATA ? 'data' : kind === ZERO ? 'zero' : 'hole';

/** Layers, a table, sums, and on a terminal the bar. */
function asTable({ layers, first }: Asked, { from, end: to }: Range): Shape {
  const size = layers[0].image.virtualSize;
  const width = Math.max(6, hex(size).length);
  const sums = new Map<Kind, number>(KINDS.map((kind) => [kind, 0]));
  const { isTTY, columns } = process.stdout;
  // A terminal that does not know its width says 0.
  const bar = isTTY ? new AllocationBar(to - from, columns || 80) : undefined;
  const row = (start: string, length: string, kind: string, layer: string, offset: string): string =>
    `${start.padEnd(width)}  ${length.padEnd(width)}  ${kind.padEnd(6)}  ${layer.padEnd(5)}  ${offset}`.trimEnd();
  const named = ({ path, image }: Layer, at: number): string =>
    `layer ${at + first}: ${shownPath(path)} (${image.format})\n`;
  return {
    begin: () => `${layers.map(named).join('')}\n${row('start', 'length', 'kind', 'layer', 'offset')}\n`,
    run(run) {
      const { at, length, depth, host } = run;
      const kind = kindOf(run);
      sums.set(kind, sums.get(kind)! + length);
      if (kind === 'data') bar?.add(at - from, length);
      const stored = run.kind === DATA ? hex(host) : '';
      return `${row(hex(at), hex(length), kind, run.kind === HOLE ? '' : `${depth + first}`, stored)}\n`;
    },
    end() {
      const parts = [...sums].filter(([, bytes]) => bytes > 0);
      const told = parts.map(([kind, bytes]) => `${kind}: ${formatSize(bytes)}\n`).join('');
      return `\n${told}${bar === undefined ? '' : `${bar.text(showsUnicode(process.env))}\n`}`;
    },
  };
}

async function mapChain(chain: ChainLayers, request: MapArguments): Promise<void> {
  const { layer, json } = request;
  const part = asked(chain, layer);
  const range = rangeOf(request, part.layers);
  const damage: string[] = [];
  const disk = diskOfChain(part.layers, (text) => damage.push(text));
  const shape = json ? asJson(part) : asTable(part, range);
  const output = new Output();
  await output.put(shape.begin());
  try {
    for (const run of originsOf(disk.walker(), range.from, range.end)) await output.put(shape.run(run));
  } catch (problem) {
    if (!(problem instanceof ImageError)) throw problem;
    await output.flush();
    // Without its end, JSON cannot be taken for a whole map.
    if (json) await output.put('\n');
    await output.flush();
    const { path } = part.layers[0];
    throw new ImageError(
      problem.kind,
      `${path}: ${problem.message}${damage.map((text) => `: ${text}`).join('')}`,
      {
        hint: 'vdisk check says what is damaged.',
        cause: problem,
      },
    );
  }
  await output.put(shape.end());
  await output.flush();
}

/** Returns the exit status. Throws ImageError, or what a write to standard output fails with. */
async function map(request: MapArguments): Promise<number> {
  const warn = (text: string): void => void process.stderr.write(`vdisk: warning: ${text}\n`);
  let chain: ChainLayers | undefined;
  try {
    // What the image alone holds can be told although a parent is missing.
    const alone = request.layer === 0;
    chain = openChain(resolve(request.path), request.format, request, warn, alone);
    if (!alone) reportUnusedParents(request, [chain], warn);
    await mapChain(chain, request);
    return OK;
  } finally {
    closeChain(chain ?? []);
  }
}

export const mapCommand: Command = {
  usage: 'map <image>',
  describe: 'say where the bytes of a disk are: in which image of the chain, and where in its file',
  take: takeMapArguments,
  run: (parsed) => map(mapArguments(parsed)),
};
