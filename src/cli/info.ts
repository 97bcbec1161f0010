/** `vdisk info`: what an image is. */

import { resolve } from 'node:path';
import { formatSize } from '../base/units.ts';
import { DEFAULT_POLICY } from '../chain/policy.ts';
import { closeImages, openImages } from '../daemon/images.ts';
import { complain, type ImageArguments } from './image-arguments.ts';

const OK = 0;
const FAILED = 1;
const USAGE = 2;

/** One image as `vdisk info` shows it; the names of the fields are those of its JSON. */
interface ImageInfo {
  readonly filename: string;
  readonly format: string;
  readonly variant: string;
  readonly 'virtual-size': number;
  readonly 'actual-size': number;
  readonly 'logical-sector-size': number;
  readonly 'physical-sector-size': number;
  readonly 'block-size': number;
  readonly facts: Readonly<Record<string, string>>;
  readonly warnings: readonly string[];
}

function inspect(path: string, { format, formatOptions, lock }: ImageArguments): ImageInfo {
  const warnings: string[] = [];
  const config = { images: [path], format, formatOptions, lock, readOnly: true, chain: DEFAULT_POLICY };
  const [opened] = openImages(config, (notice) =>
    warnings.push(notice.startsWith(`${path}: `) ? notice.slice(path.length + 2) : notice),
  );
  const { image, source } = opened!;
  const actualSize = source.allocated;
  closeImages([opened!]);
  return {
    filename: path,
    format: image.format,
    variant: image.variant,
    'virtual-size': image.virtualSize,
    'actual-size': actualSize,
    'logical-sector-size': image.logicalSectorSize,
    'physical-sector-size': image.physicalSectorSize,
    'block-size': image.blockSize,
    facts: Object.fromEntries(image.facts),
    warnings,
  };
}

function asText(info: ImageInfo): string {
  const rows: [string, string][] = [
    ['image', info.filename],
    ['format', `${info.format} (${info.variant})`],
    ['virtual size', formatSize(info['virtual-size'])],
    ['size on disk', formatSize(info['actual-size'])],
    ['sector size', `${info['logical-sector-size']} logical, ${info['physical-sector-size']} physical`],
    ...(info['block-size'] === 0 ? [] : [['block size', formatSize(info['block-size'])] as [string, string]]),
    ...Object.entries(info.facts).map(([name, value]): [string, string] => [
      name.replaceAll('-', ' '),
      value,
    ]),
    ...info.warnings.map((warning): [string, string] => ['warning', warning]),
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${`${name}:`.padEnd(width + 2)}${value}\n`).join('');
}

/** Returns the exit status: 0 done, 1 failed, 2 usage. */
export function info(request: ImageArguments): number {
  let status = OK;
  const found: ImageInfo[] = [];
  for (const path of request.paths) {
    try {
      found.push(inspect(resolve(path), request));
    } catch (problem) {
      status = Math.max(status, complain(problem).kind === 'usage' ? USAGE : FAILED);
    }
  }
  if (request.json) process.stdout.write(`${JSON.stringify(found, null, 2)}\n`);
  else process.stdout.write(found.map(asText).join('\n'));
  return status;
}
