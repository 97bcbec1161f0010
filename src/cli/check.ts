/** `vdisk check`: looks images through for damage, and reports; with --repair it mends what it can. */

import { resolve } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { formatSize } from '../base/units.ts';
import { holdersOfFile } from '../daemon/holders.ts';
import { DRIVERS } from '../formats/registry.ts';
import type { CheckReport, Finding } from '../image/check.ts';
import type { FormatDriver } from '../image/driver.ts';
import { chooseDriver } from '../image/open.ts';
import type { Repair, RepairScope } from '../image/reshape.ts';
import { type Repaired, repairImage } from '../reshape/repair.ts';
import { TableAllocator } from '../shared/paged-table.ts';
import { type FileSource, openFile } from '../source/file.ts';
import { lockImage } from '../source/image-lock.ts';
import { oneText } from './changing.ts';
import type { Command } from './command.ts';
import { complain, type ImageArguments, imageArguments, takeImageArguments } from './image-arguments.ts';
import { interruptible, Progress, type ProgressMode, progressMode, takeProgress } from './progress.ts';

/** Exit statuses, as qemu-img check has them. */
const CLEAN = 0;
const NOT_CHECKED = 1;
const ERRORS = 2;
const LEAKS = 3;
const UNSUPPORTED = 63;
/** The status of several images is the first of these that one of them has. */
const GRAVEST_FIRST = [ERRORS, NOT_CHECKED, LEAKS, UNSUPPORTED];

const CHECK_STATUS =
  'Nothing is changed without --repair, which takes: lossless (by default) for all that can be mended so that no byte ' +
  'of the disk reads otherwise than before, or what could not be read can; leaks only for space that nothing uses; all ' +
  'also for what loses something, each of it told. Where it ends early, the image is whole, and less of it is mended. ' +
  'Exit status, as of qemu-img check, and with --repair after it: 0 clean (warnings do not count), 2 errors, 3 leaks ' +
  'but no errors, 63 the format has nothing to check, 1 it could not be checked. Of several images: the gravest, ' +
  'errors first.';

const SCOPES = ['lossless', 'leaks', 'all'] as const satisfies readonly RepairScope[];

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
  /** What was mended before; only with --repair. */
  readonly repairs?: readonly Repair[];
  /** Bytes of the disk that read otherwise since. */
  readonly 'lost-bytes'?: number;
  /** Findings that are counted, but not in `findings`. */
  readonly 'findings-omitted': number;
}

interface CheckArguments extends ImageArguments {
  /** undefined: nothing is mended. */
  readonly scope: RepairScope | undefined;
  readonly progress: ProgressMode;
}

/** Throws ImageError, whose message begins with the path, where the image cannot be checked. */
async function checkImage(path: string, request: CheckArguments, signal: AbortSignal): Promise<CheckedImage> {
  const source = openFile(path, request.scope === undefined ? 'read' : 'write');
  try {
    return await checkSource(path, source, request, signal);
  } catch (problem) {
    const error = ImageError.from(problem, 'bug');
    if (error.message.startsWith(`${path}: `)) throw error;
    const hint = error.hint === undefined ? {} : { hint: error.hint };
    throw new ImageError(error.kind, `${path}: ${error.message}`, { ...hint, cause: problem });
  } finally {
    source.close();
  }
}

async function checkSource(
  path: string,
  source: FileSource,
  { scope, ...request }: CheckArguments,
  signal: AbortSignal,
): Promise<CheckedImage> {
  const { fd, device } = source.share();
  let notices = new Set<string>();
  const report = (notice: string): void => {
    notices.add(notice.startsWith(`${path}: `) ? notice.slice(path.length + 2) : notice);
  };
  if (request.lock) {
    const access = scope === undefined ? 'read' : 'write';
    const notice = lockImage(fd, path, access, () => holdersOfFile(fd).join(', '));
    if (notice !== undefined) report(notice);
  }
  const kept = [...notices];
  const context = { tables: new TableAllocator(), options: new Map(request.formatOptions), report };
  const driver = chooseDriver(source, { drivers: DRIVERS, format: request.format, device, context });
  let repaired: Repaired | undefined;
  if (scope !== undefined && driver.check !== undefined) {
    const progress = new Progress(request.progress, 'repairing');
    const control = { progress: progress.update, signal };
    repaired = await repairImage(driver, source, scope, context, control).finally(() => progress.end());
    // What was said of the image before holds no more.
    notices = new Set(kept);
  }
  const checked = describe(path, driver, driver.check?.(source, context), notices);
  if (repaired === undefined) return checked;
  return { ...checked, repairs: repaired.repairs, 'lost-bytes': repaired.lost };
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
  const { repairs = [] } = image;
  const mended = repairs.map(({ text, lostBytes }) =>
    lostBytes === 0 ? `  repaired: ${text}` : `  repaired: ${text} (${formatSize(lostBytes)} lost)`,
  );
  const after = repairs.length === 0 ? '' : `${counted(repairs.length, 'repair')[0]}; now `;
  return [
    `${filename}: ${after}${parts.join(', ')}${allocated}`,
    ...mended,
    ...shown.map(({ severity, text }) => `  ${severity}: ${text}`),
    ...(rest === 0 ? [] : [`  and ${rest} more${findings.length > shown.length ? ' (see --json)' : ''}`]),
  ]
    .map((line) => `${line}\n`)
    .join('');
}

const rank = ({ severity }: Finding): number => ['error', 'leak', 'warning'].indexOf(severity);

const statusOf = ({ result }: CheckedImage): number =>
  ({ clean: CLEAN, errors: ERRORS, leaks: LEAKS, unsupported: UNSUPPORTED })[result];

type Work = (signal: AbortSignal) => Promise<void>;

/** Returns the exit status. */
async function check(request: CheckArguments): Promise<number> {
  const seen = new Set<number>();
  const checked: CheckedImage[] = [];
  const isRepair = request.scope !== undefined;
  // A check by itself takes no signals in: those end it at once.
  const run = isRepair ? interruptible : (work: Work): Promise<void> => work(new AbortController().signal);
  await run(async (signal) => {
    for (const path of request.paths) {
      try {
        const image = await checkImage(resolve(path), request, signal);
        seen.add(statusOf(image));
        checked.push(image);
        // A large image takes a while: who waits sees how far it is.
        if (!request.json) process.stdout.write(asText(image));
      } catch (problem) {
        seen.add(NOT_CHECKED);
        if (complain(problem, isRepair).kind === 'interrupted') break;
      }
    }
  });
  if (request.json) process.stdout.write(`${JSON.stringify(checked, null, 2)}\n`);
  return GRAVEST_FIRST.find((status) => seen.has(status)) ?? CLEAN;
}

function checkArguments(parsed: Record<string, unknown>): CheckArguments {
  const scope = oneText(parsed, 'repair') as RepairScope | undefined;
  const request = imageArguments(parsed);
  if (scope !== undefined && !request.lock) {
    throw new ImageError('usage', '--force-share: an image that somebody else writes to is not repaired');
  }
  return { ...request, scope, progress: progressMode(parsed) };
}

/** "--repair" alone has a value for yargs, which would take the next word: the image. */
export function arrangeRepair(words: readonly string[]): readonly string[] {
  const end = words.includes('--') ? words.indexOf('--') : words.length;
  return words.map((word, at) => (at < end && word === '--repair' ? '--repair=lossless' : word));
}

export const checkCommand: Command = {
  usage: 'check <images..>',
  describe: 'look images through for damage, and mend it if asked',
  take: (command) => {
    takeProgress(takeImageArguments(command))
      .option('repair', {
        alias: 'r',
        choices: SCOPES,
        requiresArg: true,
        describe: 'mend what is found; --repair alone loses nothing',
      })
      .example('$0 check disk.vhdx', 'one line, and one for each finding')
      .example('$0 check --json *.vdi', 'counts and findings for programs')
      .example('$0 check --repair disk.vhd', 'mend what can be mended without loss')
      .example('$0 check --repair=all disk.qed', 'also what loses something, each of it told')
      .example('$0 check -U disk.qed', 'while a virtual machine runs: what it finds may be passing')
      .epilogue(CHECK_STATUS);
  },
  arrange: arrangeRepair,
  run: (parsed) => check(checkArguments(parsed)),
  // 2 would say that errors were found.
  failed: NOT_CHECKED,
};
