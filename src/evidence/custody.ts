/**
 * The custody of one evidence mount: what the files and disks are before it, what the files are after it, and the
 * record of both.
 */

import { hostname, userInfo } from 'node:os';
import { dirname } from 'node:path';
import { ImageError } from '../base/errors.ts';
import type { Report } from '../image/driver.ts';
import type { PagePoolSeed } from '../shared/page-pool.ts';
import {
  CONTENT_FIELDS,
  type Difference,
  describeDifference,
  differences,
  pathDifference,
} from './file-state.ts';
import { type HashOptions, type HashOutcome, hashAll } from './hash.ts';
import {
  diskOf,
  filesOf,
  fileTask,
  type HeldDisk,
  type HeldFile,
  type HeldImage,
  stateOfLayer,
} from './held.ts';
import { type EvidenceRecord, formatRecord, type HashMode, type RecordResult } from './record.ts';
import { RecordFile } from './record-file.ts';

/** What the command line says; plain data. */
export interface EvidenceSettings {
  /** Absolute path of the record; undefined: none is kept. */
  readonly record: string | undefined;
  readonly hash: HashMode;
  /** Of this program. */
  readonly version: string;
  readonly commandLine: readonly string[];
  /** Whether somebody watches the progress of hashing. */
  readonly watched: boolean;
}

export interface CustodyContext extends Pick<EvidenceRecord, 'mountpoint' | 'mount-options' | 'opened-with'> {
  /** Paths of what is written while it is mounted: none of them may be of the evidence. */
  readonly sideFiles: readonly string[];
  /** What is said besides being recorded; custody notes it itself. */
  readonly log: { readonly warn: Report; readonly error: Report };
}

export type HashControl = Pick<HashOptions, 'signal' | 'progress' | 'script'>;

const now = (): string => new Date().toISOString();

export class Custody {
  readonly #settings: EvidenceSettings;
  readonly #context: CustodyContext;
  readonly #file: RecordFile | undefined;
  readonly #begun = now();
  readonly #notices: string[] = [];
  #files: readonly HeldFile[] = [];
  #disks: readonly HeldDisk[] = [];
  #served = false;

  /** Throws ImageError where the record could not be kept: before anything of the evidence is opened. */
  constructor(settings: EvidenceSettings, context: CustodyContext) {
    this.#settings = settings;
    this.#context = context;
    if (settings.record === undefined) return;
    this.#file = new RecordFile(settings.record);
    this.#file.draft(formatRecord(this.#record()));
  }

  /** A warning or an error, for the record. */
  note(text: string): void {
    this.#notices.push(text);
  }

  #warn(text: string): void {
    this.note(text);
    this.#context.log.warn(text);
  }

  /**
   * Takes the images into custody: their states as they were found and, where hashes are wanted now, those of files
   * and disks. From then on the record is there, and says "open". `pool` is that of the mount. Throws ImageError:
   * 'in-use' where a file changes meanwhile, 'interrupted', 'io'.
   */
  async take(images: readonly HeldImage[], pool: PagePoolSeed, control: HashControl): Promise<void> {
    this.#files = filesOf(images);
    this.#disks = images.map((image) => diskOf(image, pool));
    this.#refuseSideFiles();
    this.#noteNeighbour();
    if (this.#settings.hash === 'now') {
      const outcomes = await this.#hashAll(control);
      for (const { problem } of outcomes.files) if (problem !== undefined) throw problem;
    }
    for (const { recorded, layer } of this.#files) {
      const [moved] = differences(recorded.path, recorded, stateOfLayer(layer), CONTENT_FIELDS);
      if (moved === undefined) continue;
      throw new ImageError('in-use', `somebody writes to it: ${describeDifference(moved)}`, {
        hint: 'Evidence is what nobody writes to any more: end what uses it, or work on a copy.',
      });
    }
    this.#file?.draft(formatRecord(this.#record()));
    this.#file?.publish();
  }

  /** The mount is usable: the record stays, whatever comes. */
  served(): void {
    this.#served = true;
  }

  /**
   * When nothing is served any more: compares, and completes the record. `mount` says how it ended. Throws
   * ImageError: 'changed' where a file is not what it was, 'io' where that cannot be told or written down,
   * 'interrupted'; the record then stays "open".
   */
  async close(mount: string, control: HashControl): Promise<void> {
    const { hash } = this.#settings;
    const outcomes = hash === 'none' ? undefined : await this.#hashAll(control).catch(uncompared);
    const found = this.#files.map((file, index) => this.#compare(file, outcomes?.files[index]));
    const differing = found.flatMap((file) => file.differences);
    const problems = found.flatMap(({ problem }) => problem ?? []);
    const outcome =
      differing.length > 0 ? 'changed' : problems.length > 0 ? 'incomplete' : ('unchanged' as const);
    const files = found.map(({ path, state, sha256 }) => ({ path, ...state, ...(sha256 && { sha256 }) }));
    const result: RecordResult = { at: now(), mount, outcome, differences: differing, files };
    for (const text of [...differing.map(describeDifference), ...problems]) this.#context.log.error(text);
    const unwritten = this.#complete(result);
    if (outcome === 'changed') throw this.#changed(differing, unwritten);
    if (unwritten !== undefined) throw unwritten;
    if (outcome === 'incomplete') {
      throw new ImageError('io', `the evidence could not be compared: ${problems.join('; ')}`);
    }
  }

  /** Removes what is no record: the draft, and a record of a mount that never was. */
  drop(): void {
    this.#file?.remove(this.#served ? 'draft' : 'all');
  }

  /** Writes the record for the last time; returns what kept it from being written. */
  #complete(result: RecordResult): ImageError | undefined {
    try {
      this.#file?.draft(formatRecord({ ...this.#record(), state: 'closed', result }));
      this.#file?.publish();
      return undefined;
    } catch (problem) {
      const { kind, message } = ImageError.from(problem, 'io');
      const text = `${message}; it stays "open"`;
      this.#context.log.error(text);
      return new ImageError(kind, text);
    }
  }

  #changed(differing: readonly Difference[], unwritten: ImageError | undefined): ImageError {
    const more = differing.length === 1 ? '' : `, and ${differing.length - 1} more`;
    const told = this.#file === undefined || unwritten !== undefined ? '' : `; see ${this.#file.path}`;
    const what = `${describeDifference(differing[0]!)}${more}${told}`;
    return new ImageError('changed', `THE EVIDENCE HAS CHANGED while it was mounted: ${what}`, {
      hint: 'This mount had it open for reading only: look for who else writes to it.',
    });
  }

  /** What a file is now, against what it was. */
  #compare({ recorded, layer }: HeldFile, outcome: HashOutcome | undefined) {
    const { path } = recorded;
    const found: Difference[] = [];
    const state = stateOfLayer(layer);
    found.push(...differences(path, recorded, state, CONTENT_FIELDS));
    const [accessed] = differences(path, recorded, state, ['accessed']);
    if (accessed !== undefined) {
      // Without O_NOATIME it was foreseen, and said.
      if (recorded['no-atime']) found.push(accessed);
      else this.#warn(describeDifference(accessed));
    }
    const elsewhere = pathDifference(path, recorded);
    if (elsewhere !== undefined) found.push(elsewhere);
    const sha256 = outcome?.digests?.sha256;
    const before = recorded.sha256;
    let problem: string | undefined;
    if (outcome?.problem !== undefined) problem = outcome.problem.message;
    else if (sha256 !== undefined && before !== undefined && sha256 !== before) {
      found.push({ of: path, what: 'sha256', before, after: sha256 });
    }
    return { path, state, sha256, differences: found, problem };
  }

  /**
   * Hashes the files, and with them, the first time, the disks: what a disk is follows from its files. The first
   * hashes go into the record. Throws ImageError('interrupted').
   */
  async #hashAll(control: HashControl): Promise<{ readonly files: readonly HashOutcome[] }> {
    const first = this.#files.every(({ recorded }) => recorded.sha256 === undefined);
    const disks = first ? this.#disks : [];
    const tasks = [...this.#files.map(({ layer }) => fileTask(layer)), ...disks.map(({ task }) => task)];
    const outcomes = await hashAll(tasks, { ...control, algorithms: ['sha256'] });
    const files = this.#files.map(({ recorded }, index) => {
      const outcome = prefixed(recorded.path, outcomes[index]!);
      if (first && outcome.digests?.sha256 !== undefined) recorded.sha256 = outcome.digests.sha256;
      return outcome;
    });
    disks.forEach(({ recorded }, index) => {
      const { digests, problem } = outcomes[files.length + index]!;
      if (digests?.sha256 !== undefined) recorded.sha256 = digests.sha256;
      if (problem === undefined) return;
      recorded.problem = problem.message;
      this.#warn(`${recorded.name}: has no hash: its content cannot be read: ${problem.message}`);
    });
    return { files };
  }

  #refuseSideFiles(): void {
    for (const path of this.#context.sideFiles) {
      const of = this.#files.find(({ recorded }) => pathDifference(path, recorded) === undefined);
      if (of === undefined) continue;
      throw new ImageError('usage', `${path}: is evidence (${of.recorded.path}), and would be written to`);
    }
  }

  /** Who asks for a record beside the evidence gets it, but changes the times of that directory. */
  #noteNeighbour(): void {
    if (this.#file === undefined) return;
    const directory = dirname(this.#file.path);
    const beside = this.#files.find(({ recorded }) => dirname(recorded['real-path']) === directory);
    if (beside === undefined) return;
    this.#warn(`the record is written into ${directory}, beside the evidence: the directory's times change`);
  }

  #record(): EvidenceRecord {
    const { version, commandLine, hash } = this.#settings;
    const { mountpoint } = this.#context;
    return {
      'vdisk-record': 1,
      state: 'open',
      tool: { name: 'vdisk-mount', version },
      'command-line': commandLine,
      user: { uid: process.getuid!(), name: userName(), host: hostname() },
      pid: process.pid,
      begun: this.#begun,
      mountpoint,
      'mount-options': this.#context['mount-options'],
      'opened-with': this.#context['opened-with'],
      hash,
      files: this.#files.map(({ recorded }) => recorded),
      disks: this.#disks.map(({ recorded }) => recorded),
      notices: this.#notices,
    };
  }
}

function uncompared(problem: unknown): never {
  const { kind, message } = ImageError.from(problem, 'bug');
  throw new ImageError(kind, `the evidence was not compared, and its record stays "open": ${message}`, {
    hint: 'Compare it with vdisk verify.',
    cause: problem,
  });
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    // A number that no account has.
    return '';
  }
}

function prefixed(path: string, outcome: HashOutcome): HashOutcome {
  const { problem } = outcome;
  if (problem === undefined) return outcome;
  return { problem: new ImageError(problem.kind, `${path}: hashing failed: ${problem.message}`) };
}
