/** `vdisk COMMAND`: what can be done with an image without mounting it. */

import { resolve } from 'node:path';
import yargs from 'yargs';
import { ImageError } from '../base/errors.ts';
import { formatSize } from '../base/units.ts';
import { openImages } from '../daemon/images.ts';
import { DRIVERS } from '../formats/registry.ts';
import type { FormatId } from '../image/driver.ts';
import { MOUNT_OPTIONS } from './mount-options.ts';
import { VERSION } from './version.ts';

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

interface InfoRequest {
  readonly path: string;
  readonly format: FormatId | undefined;
  readonly formatOptions: readonly (readonly [string, string])[];
  readonly lock: boolean;
}

function inspect(request: InfoRequest): ImageInfo {
  const path = resolve(request.path);
  const warnings: string[] = [];
  const [opened] = openImages({ ...request, images: [path] }, (notice) =>
    warnings.push(notice.startsWith(`${path}: `) ? notice.slice(path.length + 2) : notice),
  );
  const { image, source } = opened!;
  source.close();
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

const formatOptions = MOUNT_OPTIONS.filter((spec) =>
  DRIVERS.some((driver) => driver.options.some((option) => option.name === spec.name)),
);

async function info(parsed: Record<string, unknown>): Promise<number> {
  let status = OK;
  const found: ImageInfo[] = [];
  for (const path of parsed['images'] as string[]) {
    try {
      found.push(
        inspect({
          path: String(path),
          format: parsed['format'] as FormatId | undefined,
          formatOptions: formatOptions.flatMap(({ name }) =>
            typeof parsed[name] === 'string' ? [[name, parsed[name]] as const] : [],
          ),
          lock: parsed['force-share'] !== true,
        }),
      );
    } catch (problem) {
      status = Math.max(status, complain(problem));
    }
  }
  if (parsed['json'] === true) process.stdout.write(`${JSON.stringify(found, null, 2)}\n`);
  else process.stdout.write(found.map(asText).join('\n'));
  return status;
}

/** One line on stderr, a second with what to do; returns the exit status. */
function complain(problem: unknown): number {
  const error = ImageError.from(problem, 'bug');
  process.stderr.write(`vdisk: ${error.message}\n`);
  if (error.hint !== undefined) process.stderr.write(`  ${error.hint}\n`);
  return error.kind === 'usage' ? USAGE : FAILED;
}

/** Runs vdisk; returns its exit status: 0 done, 1 failed, 2 usage. */
export async function main(args: readonly string[]): Promise<number> {
  let status = OK;
  const parser = yargs([...args])
    .scriptName('vdisk')
    .usage('Usage: $0 COMMAND [options]')
    .parserConfiguration({ 'parse-positional-numbers': false, 'camel-case-expansion': false })
    .command(
      'info <images..>',
      'say what an image is',
      (command) => {
        command
          .positional('images', { type: 'string', array: true, describe: 'image files' })
          .option('json', { type: 'boolean', describe: 'a JSON array on stdout' })
          .option('format', {
            type: 'string',
            choices: DRIVERS.map((driver) => driver.id),
            describe: 'the format, instead of recognizing it by content',
          })
          .option('force-share', {
            alias: 'U',
            type: 'boolean',
            describe: 'look although a virtual machine writes to it',
          })
          .example('$0 info disk.vhdx', 'format, sizes, identity, log state, warnings')
          .example('$0 info --json *.vdi', 'the same for programs');
        for (const spec of formatOptions) {
          command.option(spec.name, { type: 'string', choices: spec.choices ?? [], describe: spec.doc });
        }
      },
      async (parsed) => {
        status = await info(parsed as Record<string, unknown>);
      },
    )
    .demandCommand(1, 'a command is needed')
    .strict()
    .version('version', 'show the version', VERSION)
    .alias('version', 'V')
    .alias('help', 'h')
    .wrap(Math.min(100, process.stdout.columns ?? 100))
    .epilogue('Exit status: 0 done, 1 failed, 2 usage.')
    .exitProcess(false)
    .fail((message, problem) => {
      throw problem ?? new ImageError('usage', message, { hint: 'See vdisk --help.' });
    });
  try {
    await parser.parseAsync();
    return status;
  } catch (problem) {
    return complain(problem);
  }
}
