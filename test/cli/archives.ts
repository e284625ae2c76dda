/** Small archives to load. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { dockerMembers, tarOf, testImage, testLayer, type TestImage } from '../unit/image-synthetic.js';

export interface SmallImage {
  file: string;
  bytes: Buffer;
  image: TestImage;
}

/** A docker-archive with one image; each content becomes a layer with one file named by its first 20 characters. */
export function smallImage(home: string, ref: string, contents: readonly string[]): SmallImage {
  const image = testImage(contents.map((content) => testLayer(content)));
  const bytes = tarOf(dockerMembers([{ image, tags: [ref] }]));
  const file = join(home, `${ref.replaceAll(/[^a-z0-9]/g, '-')}.tar`);
  writeFileSync(file, bytes);
  return { file, bytes, image };
}
