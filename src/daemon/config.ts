/** What one mount is to be: plain data, made by the command line, sent to the daemon's process. */

import type { ChainPolicy } from '../chain/policy.ts';
import type { EvidenceSettings } from '../evidence/custody.ts';
import type { FormatId } from '../image/driver.ts';
import type { TransportName } from '../transport/transport.ts';

export interface MountConfig {
  /** Absolute paths, in the order given. */
  readonly images: readonly string[];
  /** Absolute; its directory is resolved, its last part may be a dead mount. "/dev/fd/N" as it is. */
  readonly mountpoint: string;
  readonly format: FormatId | undefined;
  /** Options of the formats: name → value. */
  readonly formatOptions: readonly (readonly [string, string])[];
  /** How parents are found. */
  readonly chain: ChainPolicy;
  /** Parents are shown too, each as a raw file of its own. */
  readonly layers: boolean;
  /** Partitions are shown too, each as a file of its own. */
  readonly partitions: boolean;
  readonly readOnly: boolean;
  /** What takes the writes in place of the only image: an absolute path, or "tmp" (chain/overlay.ts). */
  readonly overlay: string | undefined;
  /** The images are evidence: nothing of them changes, and a record may say so. Implies `readOnly`. */
  readonly evidence: EvidenceSettings | undefined;
  /** Each write is stable when it returns. */
  readonly sync: boolean;
  readonly transport: TransportName;
  readonly threads: number;
  /** Bytes of table pages that are kept. */
  readonly cacheBytes: number;
  readonly allowOther: boolean;
  readonly nonempty: boolean;
  readonly noexec: boolean;
  /** Needs the network; see MountRequest. */
  readonly netdev?: boolean;
  readonly lock: boolean;
  readonly uid: number;
  readonly gid: number;
  readonly umask: number;
  /** Shown as the source; undefined: the first image. */
  readonly fsname: string | undefined;
  readonly foreground: boolean;
  readonly trace: boolean;
  readonly verbose: boolean;
  /** Where a daemon in the background writes its log; undefined: the system log. */
  readonly logFile: string | undefined;
  readonly pidFile: string | undefined;
  /** Where statistics are written from time to time. */
  readonly metrics: string | undefined;
}
