/** Which files may be opened because an image says so. An image's word alone opens nothing (models.md, rule 8). */

export interface ChainPolicy {
  /** Files that the user named as parents: absolute paths, tried first, in this order. */
  readonly parents: readonly string[];
  /** Directories, absolute, in which parents are looked for, besides the image's own. */
  readonly parentDirs: readonly string[];
  /** Takes a parent that is not the recorded one; for reading only. */
  readonly force: boolean;
}

export const DEFAULT_POLICY: ChainPolicy = { parents: [], parentDirs: [], force: false };
