/** Entry of the threads of a conversion. */

import { parentPort } from 'node:worker_threads';
import { ImageError } from '../base/errors.ts';
import { type ConvertInput, type ConvertMessage, passOf } from './pass.ts';
import { Work } from './work.ts';

const port = parentPort!;
const say = (message: ConvertMessage): void => port.postMessage(message);

port.once('message', (input: ConvertInput) => {
  try {
    const pass = passOf(input, say);
    while (pass.step());
  } catch (problem) {
    new Work(input.work).stop();
    say({ kind: 'failed', error: ImageError.from(problem, 'bug').toWire() });
  }
  say({ kind: 'ended' });
  port.close();
});
