/** Which files may be opened because an image says so. An image's word alone opens nothing outside of these. */

export interface ChainPolicy {
  /** Files that the user named as parents: absolute paths, the nearest parent first. They may be anywhere. */
  readonly parents: readonly string[];
  /** Directories, absolute, in which parents are looked for and may lie, besides the first image's own. */
  readonly parentDirs: readonly string[];
  /** Takes a parent that is not the recorded one; for reading only. */
  readonly force: boolean;
}

export const DEFAULT_POLICY: ChainPolicy = { parents: [], parentDirs: [], force: false };

/** In place of an overlay's path (overlay.ts): one that is gone when it is closed. */
export const TEMPORARY = 'tmp';
