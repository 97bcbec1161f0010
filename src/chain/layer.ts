/** One image file of a chain, opened: the file, its locks, and what its driver makes of it. */

import { DRIVERS } from '../formats/registry.ts';
import type { FormatId, Image, OpenContext, Report } from '../image/driver.ts';
import { openImage } from '../image/open.ts';
import type { TableAllocator } from '../shared/paged-table.ts';
import { type FileSource, openFile } from '../source/file.ts';
import { lockImage } from '../source/image-lock.ts';

export interface Layer {
  /** Absolute. */
  readonly path: string;
  readonly source: FileSource;
  readonly image: Image;
  /** A block device. */
  readonly device: boolean;
}

/** What holds for every file of a mount. */
export interface LayerContext {
  readonly tables: TableAllocator;
  /** Findings, each beginning with the path. */
  readonly report: Report;
  readonly formatOptions: readonly (readonly [string, string])[];
  /** Whether QEMU's locks are taken. */
  readonly lock: boolean;
  /** Who has the file of a descriptor open, for messages: "qemu-system-x86 (pid 77)". */
  readonly holders: (fd: number) => readonly string[];
  /** Whether access times are to be left alone: files are opened with O_NOATIME, and a notice says where not. */
  readonly noAtime?: boolean;
}

/** What is asked of a file that was not named by the user as the image to open. */
export interface AskedLayer {
  /** Looks at the open file before anything is read of it; throws where it must not be used. */
  readonly verify?: (fd: number) => void;
  /** See OpenRequest. */
  readonly anyNameIsRaw?: boolean;
}

/** What the driver of a layer is given. */
export function openContextOf(path: string, { tables, report, formatOptions }: LayerContext): OpenContext {
  return {
    tables,
    options: new Map(formatOptions),
    report: (text) => report(`${path}: ${text}`),
  };
}

/**
 * Opens an image file without its parents. `format` undefined: by content. `ask` says what is special about a parent.
 * Throws ImageError, with nothing left open.
 */
export function openLayer(
  path: string,
  access: 'read' | 'write',
  format: FormatId | undefined,
  context: LayerContext,
  ask: AskedLayer = {},
): Layer {
  const noAtime = context.noAtime === true;
  const source = openFile(path, access, noAtime);
  try {
    if (noAtime && source.found?.noAtime === false) {
      context.report(`${path}: reading may change its access time: O_NOATIME is for the owner of a file`);
    }
    const { fd, device } = source.share();
    ask.verify?.(fd);
    if (context.lock) {
      const notice = lockImage(fd, path, access, () => context.holders(fd).join(', '));
      if (notice !== undefined) context.report(notice);
    }
    const image = openImage(source, {
      drivers: DRIVERS,
      format,
      device,
      anyNameIsRaw: ask.anyNameIsRaw === true,
      context: openContextOf(path, context),
    });
    return { path, source, image, device };
  } catch (problem) {
    source.close();
    throw problem;
  }
}
