/** `vdisk verify`: looks again at what the record of an evidence mount says. */

import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { ImageError } from '../base/errors.ts';
import { DEFAULT_POLICY } from '../chain/policy.ts';
import { closeImages, type OpenedImage, openImages } from '../daemon/images.ts';
import {
  CONTENT_FIELDS,
  type Difference,
  describeDifference,
  differences,
  type FileState,
} from '../evidence/file-state.ts';
import { hashAll } from '../evidence/hash.ts';
import type { HashTask } from '../evidence/hash-thread.ts';
import { diskTask, fileTask, stateOfLayer } from '../evidence/held.ts';
import {
  type EvidenceRecord,
  parseRecord,
  type RecordedDisk,
  type RecordedFile,
} from '../evidence/record.ts';
import { readRecordText } from '../evidence/record-file.ts';
import { PagePool } from '../shared/page-pool.ts';
import { type FileSource, openFile } from '../source/file.ts';
import type { Command } from './command.ts';
import { POOL_BYTES } from './hash.ts';
import { interruptible, Progress, type ProgressMode, progressMode, takeProgress } from './progress.ts';

const SAME = 0;
const FAILED = 1;
const DIFFERENT = 3;
const MISSING = 4;

const VERIFY_STATUS =
  'Exit status: 0 all is as recorded, 3 something is different, 4 a file is missing (and nothing different), ' +
  '1 something cannot be read, 2 usage. A copy with the same bytes is the same: times are told, and count only ' +
  'where no hash was recorded.';

/** A file or a disk of the record as `vdisk verify` shows it; the names of the fields are those of its JSON. */
interface Verified {
  readonly name: string;
  readonly kind: 'file' | 'disk';
  result: 'same' | 'different' | 'missing' | 'unreadable' | 'not-recorded';
  readonly differences: Difference[];
  /** What is worth to be known besides. */
  readonly notes: string[];
}

/** Something to be hashed, and who waits for it. */
interface Pending {
  readonly verified: Verified;
  readonly task: HashTask;
  readonly before: string;
  /** Of a file: it must stay as it is while it is hashed. */
  readonly held?: { readonly source: FileSource; readonly state: FileState };
}

class Verification {
  readonly #record: EvidenceRecord;
  readonly #pending: Pending[] = [];
  readonly #sources: FileSource[] = [];
  readonly #opened: OpenedImage[] = [];

  constructor(record: EvidenceRecord) {
    this.#record = record;
  }

  async run(progress: ProgressMode): Promise<Verified[]> {
    try {
      const files = this.#record.files.map((file) => this.#file(file));
      const missing = new Set(files.filter(({ result }) => result === 'missing').map(({ name }) => name));
      const disks = this.#record.disks.map((disk) => this.#disk(disk, missing));
      await this.#hash(progress);
      return [...files, ...disks];
    } finally {
      for (const source of this.#sources) source.close();
      closeImages(this.#opened);
    }
  }

  #file(file: RecordedFile): Verified {
    const verified: Verified = { name: file.path, kind: 'file', result: 'same', differences: [], notes: [] };
    let source: FileSource;
    try {
      if (statSync(file.path, { throwIfNoEntry: false }) === undefined) {
        return { ...verified, result: 'missing' };
      }
      source = openFile(file.path, 'read', true);
    } catch (problem) {
      return unreadable(verified, problem);
    }
    this.#sources.push(source);
    const state = stateOfLayer({ source });
    verified.differences.push(...differences(file.path, file, state, ['size']));
    const [modified] = differences(file.path, file, state, ['modified']);
    if (file.sha256 === undefined) {
      verified.notes.push('no hash is recorded: size and time of modification are compared');
      if (modified !== undefined) verified.differences.push(modified);
    } else {
      if (modified !== undefined) verified.notes.push(describeDifference(modified));
      this.#pending.push({
        verified,
        task: fileTask({ source }),
        before: file.sha256,
        held: { source, state },
      });
    }
    if (verified.differences.length > 0) verified.result = 'different';
    return verified;
  }

  #disk({ name, size, files, sha256 }: RecordedDisk, missing: ReadonlySet<string>): Verified {
    const verified: Verified = { name, kind: 'disk', result: 'same', differences: [], notes: [] };
    if (sha256 === undefined) return { ...verified, result: 'not-recorded' };
    const lost = files.find((path) => missing.has(path));
    if (lost !== undefined) return { ...verified, result: 'missing', notes: [`${lost} is missing`] };
    const [path, ...parents] = files;
    const { format, locks, ...rest } = this.#record['opened-with'];
    try {
      const [opened] = openImages(
        {
          images: [path!],
          format,
          formatOptions: rest['format-options'],
          lock: locks,
          readOnly: true,
          chain: { ...DEFAULT_POLICY, parents, force: rest['force-parent'] },
          noAtime: true,
        },
        (notice) => verified.notes.push(notice),
      );
      this.#opened.push(opened!);
      const layers = [opened!, ...opened!.parents] as const;
      const compare = (what: string, before: string, after: string): void => {
        if (before !== after) verified.differences.push({ of: name, what, before, after });
      };
      compare('size', `${size}`, `${opened!.image.virtualSize}`);
      compare('files', files.join(', '), layers.map((layer) => layer.path).join(', '));
      if (verified.differences.length > 0) verified.result = 'different';
      this.#pending.push({
        verified,
        task: diskTask(layers, PagePool.seed(POOL_BYTES)),
        before: sha256,
      });
      return verified;
    } catch (problem) {
      return unreadable(verified, problem);
    }
  }

  async #hash(mode: ProgressMode): Promise<void> {
    const progress = new Progress(mode, 'hashing');
    const tasks = this.#pending.map(({ task }) => task);
    const outcomes = await interruptible((signal) =>
      hashAll(tasks, { algorithms: ['sha256'], signal, progress: progress.update }),
    ).finally(() => progress.end());
    this.#pending.forEach(({ verified, before, held }, index) => {
      const { digests, problem } = outcomes[index]!;
      const [moved] = held ? differences(verified.name, held.state, stateOfLayer(held), CONTENT_FIELDS) : [];
      if (moved !== undefined)
        verified.notes.push(`it changes while it is hashed: ${describeDifference(moved)}`);
      if (problem !== undefined) Object.assign(verified, unreadable(verified, problem));
      else if (digests.sha256 !== before) {
        verified.result = 'different';
        verified.differences.push({ of: verified.name, what: 'sha256', before, after: digests.sha256! });
      }
    });
  }
}

function unreadable(verified: Verified, problem: unknown): Verified {
  const { message } = ImageError.from(problem, 'bug');
  const result = verified.result === 'different' ? verified.result : 'unreadable';
  return { ...verified, result, notes: [...verified.notes, message] };
}

/** What the record says of the mount itself. */
function stateText({ state, begun, result }: EvidenceRecord): string {
  if (state !== 'closed' || result === undefined) {
    return `of a mount begun ${begun} that has not ended, or was cut off: it was never compared`;
  }
  const told = { unchanged: 'the evidence was unchanged', changed: 'THE EVIDENCE HAD CHANGED' };
  return `of a mount from ${begun} to ${result.at}: ${
    told[result.outcome as keyof typeof told] ?? 'the evidence could not be compared'
  }`;
}

const WORDS: Readonly<Record<Verified['result'], string>> = {
  same: 'same',
  different: 'DIFFERENT',
  missing: 'MISSING',
  unreadable: 'cannot be read',
  'not-recorded': 'no hash is recorded',
};

function asText(path: string, record: EvidenceRecord, items: readonly Verified[]): string {
  const lines = items.flatMap(({ name, kind, result, differences: found, notes }) => [
    `${kind === 'disk' ? 'content of ' : ''}${name}: ${WORDS[result]}`,
    ...found.map(({ what, before, after }) => `  ${what} was ${before}, is ${after}`),
    ...notes.map((note) => `  ${note}`),
  ]);
  return [`${path}: ${stateText(record)}`, ...lines].map((line) => `${line}\n`).join('');
}

/** Returns the exit status: see VERIFY_STATUS. Throws ImageError where the record cannot be read. */
async function verify(path: string, json: boolean, progress: ProgressMode): Promise<number> {
  const record = parseRecord(readRecordText(resolve(path)), path);
  const items = await new Verification(record).run(progress);
  if (json) {
    const { state, begun, result } = record;
    const told = { record: resolve(path), state, begun, outcome: result?.outcome ?? null, items };
    process.stdout.write(`${JSON.stringify(told, null, 2)}\n`);
  } else process.stdout.write(asText(path, record, items));
  const has = (result: Verified['result']): boolean => items.some((item) => item.result === result);
  if (has('different')) return DIFFERENT;
  if (has('missing')) return MISSING;
  return has('unreadable') ? FAILED : SAME;
}

export const verifyCommand: Command = {
  usage: 'verify <record>',
  describe: 'look whether all is still as the record of an evidence mount says',
  take: (command) => {
    takeProgress(command)
      .positional('record', { type: 'string', describe: 'file that --record wrote' })
      .option('json', { type: 'boolean', describe: 'a JSON object on stdout' })
      .example('$0 verify case-7.json', 'hashes files and disks again')
      .epilogue(VERIFY_STATUS);
  },
  run: (parsed) => verify(String(parsed['record']), parsed['json'] === true, progressMode(parsed)),
};
