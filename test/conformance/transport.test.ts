/** The transports, all through the same suite. */

import { describeTransport } from './transport-suite.ts';
import { describeWriting } from './writing-suite.ts';

describeTransport('kernel, one thread', { options: ['--threads', '1'], seeks: true });
describeTransport('kernel, four threads', { options: ['--threads', '4'], seeks: true });
describeTransport('fuse-native', {
  options: ['--transport', 'fuse-native'],
  needs: ['package: fuse-native'],
  seeks: false,
});

describeWriting('kernel, one thread', { options: ['--threads', '1'], fallocates: true });
describeWriting('kernel, four threads', { options: ['--threads', '4'], fallocates: true });
describeWriting('fuse-native', {
  options: ['--transport', 'fuse-native'],
  needs: ['package: fuse-native'],
  fallocates: false,
});
