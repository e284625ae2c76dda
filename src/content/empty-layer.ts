/** The layer tar that holds nothing: the two zero blocks that end a tar. */
export const EMPTY_LAYER_SIZE = 1024;
