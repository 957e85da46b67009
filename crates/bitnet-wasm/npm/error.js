/** An error of this package; `code` tells its kind. */
export class BitnetError extends Error {
  name = "BitnetError";

  constructor(code, message, options) {
    super(message, options);
    this.code = code;
  }
}
