/** Notifications: what the kernel is told without having asked (see abi.ts). */

import {
  NOTIFY_DELETE,
  NOTIFY_INVAL_ENTRY,
  NOTIFY_INVAL_INODE,
  NOTIFY_STORE,
  NotifyDeleteOut,
  NotifyInvalEntryOut,
  NotifyInvalInodeOut,
  NotifyStoreOut,
  ReplyHeader,
  ROOT_NODE,
} from '../../fuse/abi.ts';

/** Bytes of a page of the page cache: at least and at most, over all machines that Node runs on. */
export const SMALLEST_PAGE = 4096;
export const LARGEST_PAGE = 65536;

const BODY = ReplyHeader.size;

/** Bytes of the notification that `putStore` makes. */
export const STORE_BYTES: number = BODY + NotifyStoreOut.size + 1;

/** Makes `into` the notification that a byte 0 is at `at` in the page cache of a node. */
export function putStore(into: Uint8Array, node: number, at: number): void {
  ReplyHeader.encode({ len: STORE_BYTES, error: NOTIFY_STORE, unique: 0n }, into);
  const store = { nodeid: BigInt(node), offset: BigInt(at), size: 1, padding: 0 };
  NotifyStoreOut.encode(store, into, BODY);
}

export function storeNotice(node: number, at: number): Uint8Array {
  const notice = new Uint8Array(STORE_BYTES);
  putStore(notice, node, at);
  return notice;
}

/** The notification that a name in the root directory is to be forgotten. */
export function forgetNotice(name: string): Uint8Array {
  const bytes = Buffer.from(`${name}\0`);
  const notice = new Uint8Array(BODY + NotifyInvalEntryOut.size + bytes.length);
  ReplyHeader.encode({ len: notice.length, error: NOTIFY_INVAL_ENTRY, unique: 0n }, notice);
  const entry = { parent: BigInt(ROOT_NODE), namelen: bytes.length - 1, flags: 0 };
  NotifyInvalEntryOut.encode(entry, notice, BODY);
  notice.set(bytes, BODY + NotifyInvalEntryOut.size);
  return notice;
}

/** The notification that a name is gone from the root directory, and the file `node` with it. */
export function deletedNotice(name: string, node: number): Uint8Array {
  const bytes = Buffer.from(`${name}\0`);
  const notice = new Uint8Array(BODY + NotifyDeleteOut.size + bytes.length);
  ReplyHeader.encode({ len: notice.length, error: NOTIFY_DELETE, unique: 0n }, notice);
  const entry = { parent: BigInt(ROOT_NODE), child: BigInt(node), namelen: bytes.length - 1, padding: 0 };
  NotifyDeleteOut.encode(entry, notice, BODY);
  notice.set(bytes, BODY + NotifyDeleteOut.size);
  return notice;
}

/** The notification that all pages of a node are to be forgotten. */
export const pagesNotice = (node: number): Uint8Array => inodeNotice(node, 0n);

/** The notification that the attributes of a node are to be asked for again: its pages stay. Fails where there is no such node. */
export const attributesNotice = (node: number): Uint8Array => inodeNotice(node, -1n);

/** fuse_reverse_inval_inode() of the kernel: pages are those from `off` on, and with a negative one none. */
function inodeNotice(node: number, off: bigint): Uint8Array {
  const notice = new Uint8Array(BODY + NotifyInvalInodeOut.size);
  ReplyHeader.encode({ len: notice.length, error: NOTIFY_INVAL_INODE, unique: 0n }, notice);
  NotifyInvalInodeOut.encode({ ino: BigInt(node), off, len: 0n }, notice, BODY);
  return notice;
}
