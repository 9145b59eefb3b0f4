// The package is CommonJS, and modules get its default by Node's rules: all of its exports, not what they call default.
import exported from "react-custom-scrollbars-2/lib/index.js";

export const { Scrollbars } = exported as { Scrollbars: unknown };
export default Scrollbars;
