/**
 * The seam between a file system and the way in which the kernel reaches it. A transport mounts a tree and
 * serves it until it is unmounted.
 */

import type { TreeChange, TreeSeed } from '../fuse/tree.ts';
import type { Report } from '../image/driver.ts';

export type TransportName = 'kernel' | 'fuse-native';

export interface MountRequest {
  /** Absolute path of a directory or a regular file, or "/dev/fd/N": mounted already, N is its device. */
  readonly mountpoint: string;
  readonly tree: TreeSeed;
  /** Shown as the source by findmnt and df: the image's path. */
  readonly fsname: string;
  readonly allowOther: boolean;
  readonly noexec: boolean;
  /**
   * Whether it is marked in mount(8)'s table as needing the network (_netdev): systemd orders mounts by what that table says as
   * soon as they are there.
   */
  readonly netdev?: boolean;
  /** Threads that answer requests, at least 1. */
  readonly threads: number;
  /** Requests and replies are written to stderr. */
  readonly trace: boolean;
  readonly log: TransportLog;
}

export interface TransportLog {
  readonly debug: Report;
  readonly warn: Report;
  readonly error: Report;
}

/** How a mount came to its end. */
export type MountEnd =
  /** By umount(8), fusermount3 -u or `unmount`. */
  | { readonly how: 'unmounted' }
  /** The connection was cut while the mount was in use: by us, by umount -f, or through sysfs. */
  | { readonly how: 'aborted' }
  /** The transport itself failed. */
  | {
      readonly how: 'failed';
      readonly reason: string;
      /**
       * A thread died in the middle of work on a writable image: it may have held locks, and what it changed
       * in shared memory may be half done. Nothing more may be written to the images; on disk they are as after
       * a crash.
       */
      readonly abandoned?: boolean;
    };

/** Changes what a mount shows while it serves. */
export interface LiveTree {
  /**
   * Changes the tree in every thread that serves: from now on each answers by the new one. Fulfilled when none is still
   * at a request that it began by the old one.
   */
  change(change: TreeChange): Promise<void>;
  /** Tells the kernel that a name is gone, and who watches the directory with it. Fulfilled when it knows. */
  forgetName(name: string, node: number): Promise<void>;
  /** Makes the kernel write back and forget what it holds of a file's bytes. Fulfilled when that is done. */
  forgetPages(node: number): Promise<void>;
}

export interface Mount {
  /** Settled once, when nothing is served any more. Never rejects. */
  readonly ended: Promise<MountEnd>;
  /**
   * Asks for the end. 'clean' fails with EBUSY while the mount is in use; 'force' detaches the mount and cuts
   * the connection: whoever still uses it gets errors. Returns 0, and `ended` settles a little later; or -errno.
   * -EINVAL: it is not mounted there any more, and `ended` settles when nobody uses it. After -ENOSYS, and where 'force'
   * fails with another, only `stop` or the end of the process ends the mount.
   */
  unmount(how: 'clean' | 'force'): number;
  /**
   * Ends serving, wherever it is mounted and whoever uses it: they get errors. `ended` settles when what is being answered
   * is answered. False where that cannot be done.
   */
  stop(): boolean;
  /**
   * Ends a mount whose state in shared memory is not to be trusted: a thread died that may have held locks of the
   * images. Who waits for one of them is ended too. `ended` settles as 'failed' and `abandoned`.
   */
  abandon(reason: string): void;
  /**
   * Whether requests are still being answered: false where every thread has been in one and the same request since the
   * last call. A thread that waits for requests answers.
   */
  isAnswering(): boolean;
  /** Undefined where the transport cannot do that. */
  readonly live?: LiveTree;
}

export interface Transport {
  readonly name: TransportName;
  /** Returns when the mount is usable. Throws ImageError('mount' or 'usage'). */
  mount(request: MountRequest): Promise<Mount>;
}
