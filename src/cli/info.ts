/** `vdisk info`: what an image is, and on which parents it stands. */

import { accessSync, constants } from 'node:fs';
import { resolve } from 'node:path';
import { ImageError, type WantedParent } from '../base/errors.ts';
import { shownPath } from '../base/text.ts';
import { formatSize } from '../base/units.ts';
import { openParents } from '../chain/chain.ts';
import { shownPlace } from '../chain/find.ts';
import { type Layer, type LayerContext, openContextOf, openLayer } from '../chain/layer.ts';
import { holdersOfFile } from '../daemon/holders.ts';
import { driverOf } from '../formats/registry.ts';
import type { Report } from '../image/driver.ts';
import type { ParentPlace } from '../image/parent.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import { FileSource } from '../source/file.ts';
import { type Command, FAILED, OK, USAGE } from './command.ts';
import {
  complain,
  type ImageArguments,
  imageArguments,
  takeImageArguments,
  takeParentArguments,
} from './image-arguments.ts';
import { type ContentInfo, contentInfo, contentRows, contentTable, UNKNOWN_CONTENT } from './info-content.ts';

/** What an image says of its parent. */
interface ParentInfo {
  /** null: none is recorded. */
  readonly identity: string | null;
  /** null: whatever its content says. */
  readonly format: string | null;
  readonly places: readonly ParentPlace[];
}

/** Why the chain is not complete. */
interface MissingInfo {
  readonly kind: string;
  readonly message: string;
  readonly hint?: string;
  readonly wanted?: WantedParent;
}

interface MountInfo {
  readonly access: 'read-write' | 'read-only' | 'none';
  readonly reason: string | null;
}

interface LayerInfo {
  readonly filename: string;
  readonly format: string;
  readonly variant: string;
  readonly identity: Readonly<Record<string, string>>;
}

/** One image as `vdisk info` shows it; the names of the fields are those of its JSON. */
interface ImageInfo extends ContentInfo {
  readonly filename: string;
  readonly format: string;
  readonly variant: string;
  readonly 'virtual-size': number;
  readonly 'actual-size': number;
  readonly 'logical-sector-size': number;
  readonly 'physical-sector-size': number;
  readonly 'block-size': number;
  readonly facts: Readonly<Record<string, string>>;
  /** null: the image stands alone. */
  readonly parent: ParentInfo | null;
  /** What a mount would do: "read-write", "read-only", or "none" where it would be refused; and why not read-write. */
  readonly mount: MountInfo;
  /** The image and the parents that were found, nearest first; only the image where one of them is missing. */
  readonly chain: readonly LayerInfo[];
  readonly missing: MissingInfo | null;
  readonly warnings: readonly string[];
}

/** With `wholeChain`, each parent that is found is told of as the image is. */
interface InfoArguments extends ImageArguments {
  readonly wholeChain: boolean;
}

/**
 * The image, and with `wholeChain` its parents, nearest first. Throws ImageError where the image itself cannot be
 * opened; a missing parent is told in what it returns.
 */
function inspect(path: string, request: InfoArguments): ImageInfo[] {
  const notices: string[] = [];
  const context: LayerContext = {
    tables: new TableAllocator(),
    formatOptions: request.formatOptions,
    lock: request.lock,
    report: (text) => notices.push(text),
    holders: holdersOfFile,
  };
  const opened: Layer[] = [openLayer(path, 'read', request.format, context)];
  try {
    let missing: ImageError | undefined;
    let readOnly: string | undefined;
    try {
      const found = openParents(opened[0]!, request.chain, context);
      opened.push(...found.layers);
      readOnly = found.readOnly;
    } catch (problem) {
      missing = ImageError.from(problem, 'bug');
      if (missing.kind === 'bug') throw problem;
      notices.push(missing.message);
    }
    const count = request.wholeChain ? opened.length : 1;
    return opened.slice(0, count).map((layer, at) => {
      const chain = opened.slice(at);
      const content =
        missing === undefined ? contentOf(chain, (text) => notices.push(text)) : UNKNOWN_CONTENT;
      const isNamed = at === 0 && request.format !== undefined;
      const mount = mountOf(layer, isNamed, context, missing, readOnly);
      const own = [...new Set(notices)].filter((text) => at === 0 || text.startsWith(`${layer.path}: `));
      return describe(chain, missing, content, mount, own);
    });
  } finally {
    for (const { source } of opened) source.close();
  }
}

function contentOf([top, ...parents]: readonly Layer[], report: Report): ContentInfo {
  const seed = ({ image, source }: Layer) => ({ image: image.share(), source: source.share() });
  return contentInfo([seed(top!), ...parents.map(seed)], top!.image.logicalSectorSize, report);
}

function describe(
  opened: readonly Layer[],
  missing: ImageError | undefined,
  content: ContentInfo,
  mount: MountInfo,
  notices: readonly string[],
): ImageInfo {
  const { path, image, source } = opened[0]!;
  const { parent } = image;
  return {
    filename: path,
    format: image.format,
    variant: image.variant,
    'virtual-size': image.virtualSize,
    'actual-size': source.allocated,
    'logical-sector-size': image.logicalSectorSize,
    'physical-sector-size': image.physicalSectorSize,
    'block-size': image.blockSize,
    facts: Object.fromEntries(image.facts),
    parent:
      parent === undefined
        ? null
        : { identity: parent.identity ?? null, format: parent.format ?? null, places: parent.places },
    mount,
    chain: opened.map(layerInfo),
    missing: missing?.toWire() ?? null,
    ...content,
    warnings: notices.map((text) => (text.startsWith(`${path}: `) ? text.slice(path.length + 2) : text)),
  };
}

/**
 * What a mount would do with the image, looked at as a mount does, but for the locks of others; it is not written to.
 * `isNamed`: the user said its format.
 */
function mountOf(
  { path, image, source, device }: Layer,
  isNamed: boolean,
  context: LayerContext,
  missing: ImageError | undefined,
  doubt: string | undefined,
): MountInfo {
  const readOnly = (reason: string): MountInfo => ({ access: 'read-only', reason });
  if (missing !== undefined) return { access: 'none', reason: missing.message };
  if (doubt !== undefined) return readOnly(doubt);
  if (device && image.format === 'raw' && !isNamed) {
    return readOnly('a device without a known format is written to only with --format=raw');
  }
  try {
    accessSync(path, constants.W_OK);
  } catch {
    return readOnly('permission denied');
  }
  try {
    const shared = { ...source.share(), writable: true };
    const quiet = { ...openContextOf(path, context), report: () => {} };
    driverOf(image.format).open(new FileSource(shared), quiet).prepareEdit(quiet);
    return { access: 'read-write', reason: null };
  } catch (problem) {
    return readOnly(ImageError.from(problem, 'bug').message);
  }
}

function layerInfo({ path, image }: Layer): LayerInfo {
  const identity = Object.fromEntries(image.identity.map(({ name, text }) => [name, text]));
  return { filename: path, format: image.format, variant: image.variant, identity };
}

type Row = [name: string, value: string];

function asText(info: ImageInfo): string {
  const rows: Row[] = [
    ['image', info.filename],
    ['format', `${info.format} (${info.variant})`],
    ['virtual size', formatSize(info['virtual-size'])],
    ['size on disk', formatSize(info['actual-size'])],
    ['sector size', `${info['logical-sector-size']} logical, ${info['physical-sector-size']} physical`],
    ...(info['block-size'] === 0 ? [] : [['block size', formatSize(info['block-size'])] as Row]),
    ...Object.entries(info.facts).map(([name, value]): Row => [name.replaceAll('-', ' '), value]),
    ['mount', mountText(info.mount)],
    ...parentRows(info),
    ...contentRows(info),
    ...info.warnings.map((warning): Row => ['warning', warning]),
    ...(info.missing?.wanted?.looked ?? []).map(
      ({ path, reason }): Row => ['looked at', `${path}: ${reason}`],
    ),
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  const lines = rows.map(([name, value]) => `${`${name}:`.padEnd(width + 2)}${value}\n`);
  return lines.join('') + contentTable(info);
}

function mountText({ access, reason }: MountInfo): string {
  const does = access === 'none' ? 'refused' : access;
  return reason === null ? does : `${does}: ${reason}`;
}

function parentRows({ parent, chain }: ImageInfo): Row[] {
  if (parent === null) return [];
  const rows: Row[] = [];
  if (parent.identity !== null) rows.push(['parent wanted', parent.identity]);
  for (const place of parent.places) rows.push(['parent place', shownPlace(place)]);
  if (parent.format !== null) rows.push(['parent format', parent.format]);
  chain.slice(1).forEach(({ filename, format, variant, identity }, at) => {
    const marks = Object.entries(identity).map(([name, text]) => `, ${name} ${text}`);
    rows.push([`parent ${at + 1}`, `${shownPath(filename)}: ${format} (${variant})${marks.join('')}`]);
  });
  return rows;
}

/** Returns the exit status: 0 done, 1 failed, 2 usage. */
function info(request: InfoArguments): number {
  let status = OK;
  const found: ImageInfo[] = [];
  for (const path of request.paths) {
    try {
      found.push(...inspect(resolve(path), request));
    } catch (problem) {
      status = Math.max(status, complain(problem).kind === 'usage' ? USAGE : FAILED);
    }
  }
  if (request.json) process.stdout.write(`${JSON.stringify(found, null, 2)}\n`);
  else process.stdout.write(found.map(asText).join('\n'));
  return status;
}

export const infoCommand: Command = {
  usage: 'info <images..>',
  describe: 'say what an image is',
  take: (command) => {
    takeParentArguments(takeImageArguments(command))
      .option('chain', { type: 'boolean', describe: 'tell of each parent as well, as of the image' })
      .example('$0 info disk.vhdx', 'format, sizes, identity, parents, log state, warnings')
      .example('$0 info --json *.vdi', 'the same for programs')
      .example('$0 info --chain snapshot.avhdx', 'the image and all that it stands on')
      .epilogue('Exit status: 0 done, 1 failed, 2 usage.');
  },
  run: (parsed) => info({ ...imageArguments(parsed), wholeChain: parsed['chain'] === true }),
};
