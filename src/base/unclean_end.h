#pragma once

namespace moesaic {

// HDF5 crashes when the process ends after a file that it could not close. The process then ends
// without the libraries' own clean-up.
void end_without_clean_up();
bool ends_without_clean_up();

}  // namespace moesaic
