/** The end of NOTIFY_SOCKET that systemd has: a local datagram socket, which Node knows nothing of. */

import { closeSync } from 'node:fs';
import koffi from 'koffi';
import { datagramSocket } from '../../src/source/syscalls.ts';

const AF_UNIX = 1;
const MSG_DONTWAIT = 0x40;
const MAX_BYTES = 8192;

const libc = koffi.load(null);
const bind = libc.func('int bind(int fd, const uint8_t *address, uint32_t size)');
const receive = libc.func('long recv(int fd, _Out_ uint8_t *message, size_t length, int flags)');

export class NotifySocket {
  readonly #fd: number;
  readonly #messages: string[] = [];

  /** `name`: a path, or "@name" for an abstract one. */
  constructor(name: string) {
    this.#fd = datagramSocket();
    const abstract = name.startsWith('@');
    const path = Buffer.from(abstract ? `\0${name.slice(1)}` : `${name}\0`);
    const address = Buffer.concat([Buffer.of(AF_UNIX, 0), path]);
    if (bind(this.#fd, address, address.length) !== 0) throw new Error(`bind: errno ${koffi.errno()}`);
  }

  /** Every message so far. */
  messages(): readonly string[] {
    for (;;) {
      const message = Buffer.alloc(MAX_BYTES);
      const length = Number(receive(this.#fd, message, message.length, MSG_DONTWAIT));
      if (length < 0) return this.#messages;
      this.#messages.push(message.toString('utf8', 0, length));
    }
  }

  /** Every line so far. */
  lines(): string[] {
    return this.messages().flatMap((message) => message.split('\n'));
  }

  close(): void {
    closeSync(this.#fd);
  }
}
