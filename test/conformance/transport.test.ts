/** The transports, all through the same suite. */

import { describeTransport } from './transport-suite.ts';

describeTransport('kernel, one thread', { options: ['--threads', '1'], seeks: true });
describeTransport('kernel, four threads', { options: ['--threads', '4'], seeks: true });
describeTransport('fuse-native', {
  options: ['--transport', 'fuse-native'],
  needs: ['package: fuse-native'],
  seeks: false,
});
