/** `vdisk check`: looks images through for damage, and reports. It changes nothing. */

import { resolve } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { formatSize } from '../base/units.ts';
import { holdersOfFile } from '../daemon/holders.ts';
import { DRIVERS } from '../formats/registry.ts';
import type { CheckReport, Finding } from '../image/check.ts';
import type { FormatDriver } from '../image/driver.ts';
import { chooseDriver } from '../image/open.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import { type FileSource, openFile } from '../source/file.ts';
import { lockImage } from '../source/image-lock.ts';
import type { Command } from './command.ts';
import { complain, type ImageArguments, imageArguments, takeImageArguments } from './image-arguments.ts';

/** Exit statuses, as qemu-img check has them. */
const CLEAN = 0;
const NOT_CHECKED = 1;
const ERRORS = 2;
const LEAKS = 3;
const UNSUPPORTED = 63;
/** The status of several images is the first of these that one of them has. */
const GRAVEST_FIRST = [ERRORS, NOT_CHECKED, LEAKS, UNSUPPORTED];

const CHECK_STATUS =
  'Exit status, as of qemu-img check: 0 clean (warnings do not count), 2 errors, 3 leaks but no errors, ' +
  '63 the format has nothing to check, 1 it could not be checked. Of several images: the gravest, errors first.';

/** Findings shown to people; JSON has all that are kept. */
const MAX_SHOWN = 50;

/** One image as `vdisk check` shows it; the names of the fields are those of its JSON. */
interface CheckedImage {
  readonly filename: string;
  readonly format: string;
  readonly result: 'clean' | 'errors' | 'leaks' | 'unsupported';
  readonly errors: number;
  readonly leaks: number;
  readonly 'leaked-bytes': number;
  readonly warnings: number;
  readonly 'allocated-bytes': number;
  readonly findings: readonly Finding[];
  /** Findings that are counted, but not in `findings`. */
  readonly 'findings-omitted': number;
}

/** Throws ImageError, whose message begins with the path, where the image cannot be checked. */
function checkImage(path: string, request: ImageArguments): CheckedImage {
  const source = openFile(path);
  try {
    return checkSource(path, source, request);
  } catch (problem) {
    const error = ImageError.from(problem, 'bug');
    if (error.message.startsWith(`${path}: `)) throw error;
    const hint = error.hint === undefined ? {} : { hint: error.hint };
    throw new ImageError(error.kind, `${path}: ${error.message}`, { ...hint, cause: problem });
  } finally {
    source.close();
  }
}

function checkSource(path: string, source: FileSource, request: ImageArguments): CheckedImage {
  const { fd, device } = source.share();
  const notices = new Set<string>();
  const report = (notice: string): void => {
    notices.add(notice.startsWith(`${path}: `) ? notice.slice(path.length + 2) : notice);
  };
  if (request.lock) {
    const notice = lockImage(fd, path, 'read', () => holdersOfFile(fd).join(', '));
    if (notice !== undefined) report(notice);
  }
  const context = { tables: new TableAllocator(), options: new Map(request.formatOptions), report };
  const driver = chooseDriver(source, { drivers: DRIVERS, format: request.format, device, context });
  return describe(path, driver, driver.check?.(source, context), notices);
}

function describe(
  path: string,
  driver: FormatDriver,
  report: CheckReport | undefined,
  notices: ReadonlySet<string>,
): CheckedImage {
  const { findings = [], errors = 0, leaks = 0, warnings = 0 } = report ?? {};
  const told = new Set(findings.map(({ text }) => text));
  const more = [...notices]
    .filter((text) => !told.has(text))
    .map((text): Finding => ({ severity: 'warning', text }));
  const all = [...findings, ...more];
  return {
    filename: path,
    format: driver.id,
    result: report === undefined ? 'unsupported' : errors > 0 ? 'errors' : leaks > 0 ? 'leaks' : 'clean',
    errors,
    leaks,
    'leaked-bytes': report?.leakedBytes ?? 0,
    warnings: warnings + more.length,
    'allocated-bytes': report?.allocatedBytes ?? 0,
    findings: all,
    'findings-omitted': errors + leaks + warnings - findings.length,
  };
}

function asText(image: CheckedImage): string {
  const { filename, format, errors, leaks, warnings, findings } = image;
  const counted = (count: number, noun: string): string[] =>
    count === 0 ? [] : [`${count} ${noun}${count === 1 ? '' : 's'}`];
  const lost = leaks === 0 ? '' : ` (${formatSize(image['leaked-bytes'])})`;
  const parts = [
    ...counted(errors, 'error'),
    ...counted(leaks, 'leak').map((text) => `${text}${lost}`),
    ...counted(warnings, 'warning'),
  ];
  if (image.result === 'unsupported') parts.unshift(`not checked: ${format} has no structure to check`);
  else if (image.result === 'clean') parts.unshift('clean');
  const allocated =
    image.result === 'unsupported' ? '' : `; ${format}, ${formatSize(image['allocated-bytes'])} allocated`;
  const shown = [...findings].sort((a, b) => rank(a) - rank(b)).slice(0, MAX_SHOWN);
  const rest = findings.length + image['findings-omitted'] - shown.length;
  return [
    `${filename}: ${parts.join(', ')}${allocated}`,
    ...shown.map(({ severity, text }) => `  ${severity}: ${text}`),
    ...(rest === 0 ? [] : [`  and ${rest} more${findings.length > shown.length ? ' (see --json)' : ''}`]),
  ]
    .map((line) => `${line}\n`)
    .join('');
}

const rank = ({ severity }: Finding): number => ['error', 'leak', 'warning'].indexOf(severity);

const statusOf = ({ result }: CheckedImage): number =>
  ({ clean: CLEAN, errors: ERRORS, leaks: LEAKS, unsupported: UNSUPPORTED })[result];

/** Returns the exit status. */
function check(request: ImageArguments): number {
  const seen = new Set<number>();
  const checked: CheckedImage[] = [];
  for (const path of request.paths) {
    try {
      const image = checkImage(resolve(path), request);
      seen.add(statusOf(image));
      checked.push(image);
      // A large image takes a while: who waits sees how far it is.
      if (!request.json) process.stdout.write(asText(image));
    } catch (problem) {
      complain(problem);
      seen.add(NOT_CHECKED);
    }
  }
  if (request.json) process.stdout.write(`${JSON.stringify(checked, null, 2)}\n`);
  return GRAVEST_FIRST.find((status) => seen.has(status)) ?? CLEAN;
}

export const checkCommand: Command = {
  usage: 'check <images..>',
  describe: 'look images through for damage, changing nothing',
  take: (command) => {
    takeImageArguments(command)
      .example('$0 check disk.vhdx', 'one line, and one for each finding')
      .example('$0 check --json *.vdi', 'counts and findings for programs')
      .example('$0 check -U disk.qed', 'while a virtual machine runs: what it finds may be passing')
      .epilogue(CHECK_STATUS);
  },
  run: (parsed) => check(imageArguments(parsed)),
  // 2 would say that errors were found.
  failed: NOT_CHECKED,
};
